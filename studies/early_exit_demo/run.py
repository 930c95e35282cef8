"""Early exits on the demo: accuracy at a mean cost, against no exit and a static method.

    python studies/early_exit_demo/run.py

On the smallest subnet of the demo supernet, LGViT's four heads are put behind the last blocks but
one and trained as in LGViT's stage 2: the model is frozen, so the tokens that reach the heads are
computed once per image and kept. Thresholds are calibrated to mean costs on training images that
the heads did not see; then validation images are judged under them, and top-k pruning at the same
cost in multiply-accumulates. Prints a table and writes it to table.md.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from autotok.backbones.base import Backbone
from autotok.backbones.demo import DEMO_SPEC
from autotok.backbones.loading import load_backbone
from autotok.compression.compress import compress_backbone
from autotok.compression.exit_rules import confidence
from autotok.compression.exit_scores import score_exits, threshold_meeting
from autotok.compression.model import CompressedViT
from autotok.compression.tap_request import TapRequest
from autotok.config import CompressionConfig, Reduction
from autotok.counting.exit_costs import measured_exit_macs
from autotok.counting.macs import cost
from autotok.evaluation.accuracy import Evaluator
from autotok.evaluation.data import DataSource, load_data
from autotok.evaluation.intervals import wilson
from autotok.exits import ExitPolicy
from autotok.tokens import Tokens
from autotok.training.exit_losses import stage_two

HERE = Path(__file__).parent
SHARES = (0.9, 0.8)
"""Of the uncompressed cost, asked for as the mean."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=int, default=320)
    parser.add_argument("--calibrate", type=int, default=200)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--table", type=Path, default=HERE / "table.md")
    asked = parser.parse_args()
    began = time.perf_counter()
    model, data, others = taught(asked.train, asked.calibrate, asked.epochs)
    lines = judged(model, data, others, asked.images)
    lines.append(f"\n{time.perf_counter() - began:.0f} s in all.")
    asked.table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def taught(images: int, more: int, epochs: int) -> tuple[CompressedViT, DataSource, list[int]]:
    """The demo's smallest subnet with LGViT's heads taught on `images` training images; these, and
    which `more` of them it has not seen."""
    began = time.perf_counter()
    backbone = load_backbone("autoformer_demo", subnet=DEMO_SPEC.smallest())
    blocks = backbone.facts.num_blocks
    policy = ExitPolicy(tuple(range(blocks - 5, blocks - 1)), ("lgvit",))
    torch.manual_seed(0)
    model = compress_backbone(backbone, CompressionConfig(exits=policy)).eval()
    data = load_data("demo", backbone, split="train")
    chosen = data.subset(images + more, 0)
    train_heads(model, data, chosen[:images], epochs)
    print(f"heads trained after {time.perf_counter() - began:.0f} s", flush=True)
    return model, data, chosen[images:]


@torch.no_grad()
def remembered(
    model: CompressedViT, data: DataSource, indices: list[int]
) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    """Tokens (n, N, C) behind every exit and at the end, in half precision; logits and labels."""
    assert model.exits is not None
    layers = model.exits.policy.layers
    kept: list[list[Tensor]] = []
    labels = []
    for first in range(0, len(indices), 8):
        images, own = data.batch(indices[first : first + 8])
        assert own is not None
        watch = TapRequest(after=frozenset(layers))
        end = model.forward_tokens(images, watch=watch)
        parts = [*(watch.tokens[layer].x.half() for layer in layers), end.x.half()]
        kept.append([*parts, model.backbone.readout(end)])
        labels.append(own)
    joined = [torch.cat(column) for column in zip(*kept, strict=True)]
    return joined[:-2], joined[-2], joined[-1], torch.cat(labels)


def train_heads(model: CompressedViT, data: DataSource, indices: list[int], epochs: int) -> None:
    """AdamW over LGViT's stage 2; the rest of the model is not touched."""
    exits, facts = model.exits, model.backbone.facts
    assert exits is not None
    seen, end, answers, labels = remembered(model, data, indices)
    optimizer = torch.optim.AdamW(exits.parameters(), lr=2e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, epochs)
    exits.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(labels)).split(16):
            read = [
                exits.read(number, Tokens(x[rows].float(), facts.num_prefix, facts.grid))
                for number, x in enumerate(seen)
            ]
            loss = stage_two(
                exits.policy.kinds,
                [logits for logits, _ in read],
                [features for _, features in read],
                answers[rows],
                end[rows, facts.num_prefix :].float(),
                labels[rows],
                grid=facts.grid,
            )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(exits.parameters(), 1.0)
            optimizer.step()
        schedule.step()
    exits.eval()


@torch.no_grad()
def scored(
    model: CompressedViT, data: DataSource, indices: list[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidence (E, n), costs (n, E + 1) and whether each answer is right (E + 1, n)."""
    sure, costs, right = [], [], []
    for first in range(0, len(indices), 8):
        images, labels = data.batch(indices[first : first + 8])
        assert labels is not None
        found = score_exits(model, images)
        sure.append(confidence(found.logits).numpy())
        costs.append(measured_exit_macs(model, found)[0])
        everything = torch.cat([found.logits, found.final.unsqueeze(0)])
        right.append((everything.argmax(-1) == labels).numpy())
    return np.concatenate(sure, 1), np.concatenate(costs), np.concatenate(right, 1)


def judged(model: CompressedViT, train: DataSource, unseen: list[int], images: int) -> list[str]:
    """The table: heads alone, then what is met at each mean cost."""
    backbone = model.backbone
    facts, policy = backbone.facts, model.config.exits
    assert policy is not None
    val = load_data("demo", backbone)
    shown = val.subset(images, 0)
    sure, costs, _ = scored(model, train, unseen)
    own_sure, own_costs, right = scored(model, val, shown)
    dense, ends = cost(facts, CompressionConfig()).macs, len(policy.layers)
    lines = ["| | asked GFLOPs | mean | spread | top-1 % | 95 % | stopped at each exit, end |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    lines.append(row("no exit", None, dense, 0.0, right[ends]))
    for number, (layer, kind) in enumerate(zip(policy.layers, policy.kinds, strict=True)):
        at = float(costs[0, number])
        lines.append(row(f"every image at block {layer} ({kind})", None, at, 0.0, right[number]))
    for share in SHARES:
        mean = share * dense
        tau = threshold_meeting(sure, costs, mean)
        stopped = own_sure > tau
        first = np.where(stopped.any(0), stopped.argmax(0), ends)
        rows = np.arange(len(first))
        spent = own_costs[rows, first]
        shares = ", ".join(f"{100 * np.mean(first == n):.0f}" for n in range(ends + 1))
        what = f"exits, threshold {tau:.3f}"
        found = right[first, rows]
        lines.append(row(what, mean, spent.mean(), spent.std(), found) + f" {shares} |")
        lines.append(row("top-k pruning", mean, *pruned(backbone, val, mean, images)))
    return [line if line.count("|") != 7 else f"{line} |" for line in lines]


def row(what: str, asked: float | None, mean: float, spread: float, right: np.ndarray) -> str:
    """One line of the table, but for its last cell."""
    low, high = wilson(int(right.sum()), len(right))
    given = "" if asked is None else f"{asked / 1e9:.3f}"
    return (
        f"| {what} | {given} | {mean / 1e9:.3f} | {spread / 1e9:.3f} | {100 * right.mean():.1f} |"
        f" {100 * low:.1f} to {100 * high:.1f} |"
    )


def pruned(
    backbone: Backbone, val: DataSource, mean: float, images: int
) -> tuple[float, float, np.ndarray]:
    """(cost, 0, hits) of top-k in the middle, with the most tokens that cost at most `mean`."""
    middle, count = backbone.facts.num_blocks // 2, backbone.facts.num_patches
    configs = (
        CompressionConfig("topk", (Reduction(middle, num_keep=keep),))
        for keep in range(count - 1, 0, -1)
    )
    config = next(c for c in configs if cost(backbone.facts, c).macs <= mean)
    evaluator = Evaluator(backbone, val, metric="top1", seed=0)
    tally = evaluator.evaluate(compress_backbone(backbone, config).eval(), 0, images)
    hits = np.array([hit == "1" for hit in tally.hits])
    return cost(backbone.facts, config).macs, 0.0, hits


if __name__ == "__main__":
    main()
