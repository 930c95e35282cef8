"""Records with made-up outcomes per image, as a final evaluation leaves them."""

from __future__ import annotations

import random
from typing import Any

from autotok.config import CompressionConfig, Reduction
from autotok.counting.cost import Cost
from autotok.searching.records.final import Final
from autotok.searching.records.record import Score, TrialRecord

IMAGES = 400


def hits(share: float, *, seed: int = 0, images: int = IMAGES, noise: float = 0.06) -> str:
    """Outcomes that agree between shares but for some noise: easy images are easy for all."""
    hard, luck = random.Random(1), random.Random(seed)
    return "".join(
        "1" if hard.random() + noise * luck.gauss(0.0, 1.0) < share else "0" for _ in range(images)
    )


def tally(outcomes: str) -> dict[str, Any]:
    """As `dataclasses.asdict` of a `Tally`."""
    return {"metric": "top1", "num_images": len(outcomes), "hits": outcomes, "kls": ()}


def record(
    number: int,
    method: str,
    macs_g: float,
    outcomes: str,
    *,
    untuned: str | None = None,
    seconds: float = 90.0,
    origin: str = "sampler",
) -> TrialRecord:
    """A finished record; fine-tuned where outcomes without the fine-tune are given."""
    value = 100.0 * outcomes.count("1") / len(outcomes)
    retrained = untuned is not None
    reductions = (Reduction(3, num_keep=max(1, 200 - 5 * abs(number))),) if method != "none" else ()
    mode = "retrain" if retrained else "plug-in"
    return TrialRecord(
        number=number,
        state="complete",
        config=CompressionConfig(method=method, reductions=reductions, mode=mode),
        layers=tuple(r.layer for r in reductions),
        counts=tuple(r.num_keep or 0 for r in reductions),
        costs=Cost(int(macs_g * 1e9), int(macs_g * 0.8e9), 3_000_000),
        score=Score("top1", value, value - 3.0, min(100.0, value + 3.0), len(outcomes), retrained),
        fidelity="final",
        origin=origin,
        tally=tally(outcomes),
        base=None if not retrained else number - 1,
        tuned=None
        if not retrained
        else {"steps": 200, "images": 3200, "seconds": seconds, "loss": 0.31},
        untuned=None if untuned is None else tally(untuned),
        macs_counted=int(macs_g * 1e9),
        within_budget=True,
    )


def final() -> Final:
    """A front of five: the best, a cheaper tie, a retrained one that gained, one that did not."""
    front = (
        record(3, "ltp", 0.40, hits(0.45, seed=3)),
        record(8, "tome", 0.88, hits(0.80, seed=8), untuned=hits(0.62, seed=9), seconds=75.0),
        record(5, "evit", 1.24, hits(0.855, seed=5)),
        record(12, "topk", 1.84, hits(0.86, seed=12), untuned=hits(0.857, seed=13)),
        record(2, "tofu", 2.28, hits(0.875, seed=2)),
    )
    controls = tuple(
        record(-2 - i, "random", 2.27, hits(0.5 - 0.1 * i, seed=20 + i), origin="control")
        for i in range(3)
    )
    reference = record(-1, "none", 4.82, hits(0.88, seed=30), origin="reference")
    best = max(front, key=lambda r: r.score.value if r.score else 0.0)
    return Final(front, best, controls[0], controls, reference)
