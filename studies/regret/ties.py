"""Of configurations that accuracy does not tell apart, which one to recommend?

    python studies/regret/ties.py                             # the table, from what is recorded
    python studies/regret/ties.py record demo --images 400    # writes ties-demo.npz
    python studies/regret/ties.py record cifar --images 2000 --data CIFAR --checkpoint FILE

Recorded are the sixteen configurations of a table of `studies/search_benchmark` that came nearest
to the uncompressed model inside a budget that nothing is reported at (at most four of a method):
right or wrong and KL divergence of every image. The table chooses among ten of them by some images
and looks on all others how much is lost to the best of the ten, thousands of times.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1] / "search_benchmark"))

from record import QUESTIONS
from recorded import Recorded

from autotok.compression.compress import compress_backbone
from autotok.evaluation.accuracy import computing
from autotok.evaluation.allocator import reuse_large_blocks
from autotok.evaluation.paired import paired_hits
from autotok.evaluation.reference_answers import divergences
from autotok.searching.running.session import build_problem

HERE = Path(__file__).parent
SHARES = {"demo": 0.394, "cifar": 0.6}
"""Of the uncompressed cost: budgets of 1.9 GFLOPs, and of 60 %."""
RIVALS, OF_A_METHOD, CHOICE = 16, 4, 10
REPEATS = 400
Bits, Floats = NDArray[np.bool_], NDArray[np.float64]
Rule = Callable[[Bits, Floats], int]
"""Which of (n, images) right or wrong, and divergences, to take."""


def by_accuracy(right: Bits, kl: Floats) -> int:
    """The most right answers."""
    return int(right.mean(axis=1).argmax())


def by_divergence(right: Bits, kl: Floats) -> int:
    """The nearest to the uncompressed model, of those not told from the most right answers."""
    best = by_accuracy(right, kl)
    told = ["".join("01"[int(bit)] for bit in row) for row in right]
    ties = [paired_hits(own, told[best]).verdict != "worse" for own in told]
    return int(np.where(ties, kl.mean(axis=1), np.inf).argmin())


RULES: dict[str, Rule] = {"by accuracy": by_accuracy, "among ties by divergence": by_divergence}


def table(name: str) -> str:
    """Points of accuracy lost by each rule, and how often at most one."""
    with np.load(HERE / f"ties-{name}.npz", allow_pickle=False) as arrays:
        right, kl = arrays["right"].astype(bool), arrays["kl"].astype(float)
    rng, total = np.random.default_rng(0), right.shape[1]
    lines = [
        f"{name}: {len(right)} configurations, {total} images",
        "",
        "| images seen | rule | points lost, mean | at most 1 lost |",
        "|---|---|---|---|",
    ]
    for seen in (16, 32, 64, 100, 200, 400):
        if seen > total / 2:
            break
        lost: dict[str, list[float]] = {rule: [] for rule in RULES}
        for _ in range(REPEATS):
            chosen = rng.permutation(len(right))[:CHOICE]
            order = rng.permutation(total)
            own, others = right[chosen][:, order], kl[chosen][:, order[:seen]]
            truth = 100.0 * own[:, seen:].mean(axis=1)
            for rule, choose in RULES.items():
                lost[rule].append(float(truth.max() - truth[choose(own[:, :seen], others)]))
        for rule, points in lost.items():
            within = sum(p <= 1.0 for p in points) / len(points)
            lines.append(f"| {seen} | {rule} | {np.mean(points):.2f} | {100 * within:.0f} % |")
    return "\n".join([*lines, ""])


def record(name: str, images: int, **named: str) -> None:
    """Run the rivals of a table on so many images."""
    question = dataclasses.replace(QUESTIONS[name], **named)
    reuse_large_blocks()
    session, known = build_problem(question), Recorded.load(name, 16)
    rivals, methods = [], Counter[str]()
    nearest = known.kl.mean(axis=1)
    nearest[known.macs > SHARES[name] * known.whole] = np.inf
    for row in np.argsort(nearest).tolist():
        config = known.configs[row]
        methods[config.method] += 1
        if methods[config.method] <= OF_A_METHOD and len(rivals) < RIVALS:
            rivals.append(config)
    evaluator = session.evaluator
    models = [compress_backbone(session.backbone, config).eval() for config in rivals]
    right, kl = [], []
    order = evaluator.data.subset(images, evaluator.seed)
    for start in range(0, len(order), evaluator.batch_size):
        batch, labels = evaluator.data.batch(order[start : start + evaluator.batch_size])
        with torch.inference_mode(), computing(batch.device, evaluator.precision):
            whole = session.backbone.eval()(batch).float()
            outputs = [model(batch).float() for model in models]
        assert labels is not None
        right.append(torch.stack([out.argmax(dim=-1) == labels for out in outputs]))
        kl.append(torch.stack([divergences(out, whole) for out in outputs]))
        print(f"{start + len(batch)} of {len(order)} images", end="\r", flush=True)
    write(
        name, torch.cat(right, 1).numpy(), torch.cat(kl, 1).numpy(), [c.to_dict() for c in rivals]
    )


def write(name: str, right: Bits, kl: Floats, configs: list[dict[str, object]]) -> None:
    """What `table` reads, with the configurations beside it."""
    np.savez_compressed(
        HERE / f"ties-{name}.npz",
        right=right.astype(np.int8),
        kl=kl.astype(np.float16),
        configs=np.array([json.dumps(c, sort_keys=True) for c in configs]),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=["table", "record"], default="table")
    parser.add_argument("name", nargs="?", choices=sorted(SHARES))
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--data")
    parser.add_argument("--checkpoint")
    asked = parser.parse_args()
    if asked.what == "record":
        if asked.name is None:
            parser.error(f"record needs a name: {' or '.join(sorted(SHARES))}")
        named = {k: v for k in ("data", "checkpoint") if (v := getattr(asked, k)) is not None}
        record(asked.name, asked.images, **named)
    for name in [asked.name] if asked.name else sorted(SHARES):
        print(table(name))


if __name__ == "__main__":
    main()
