"""Exit thresholds on the demo: how many images it takes to meet a mean cost on others.

    python studies/early_exit_demo/calibration.py

The model and the heads of `run.py`. What every exit says of an image is recorded once, with nobody
stopping; after that the cost under any threshold is arithmetic. Thresholds found on training
images, few or all, are held against validation images, and those found on one half of these against
the other half. Prints a table and writes it to calibration.md.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from run import HERE, SHARES, scored, taught

from autotok.compression.exit_scores import threshold_meeting
from autotok.compression.model import CompressedViT
from autotok.config import CompressionConfig
from autotok.counting.macs import cost
from autotok.evaluation.data import DataSource, load_data

BATCH = 20
Recorded = tuple[np.ndarray, np.ndarray]
"""Confidence (E, n) and costs (n, E + 1)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=int, default=120)
    parser.add_argument("--images", type=int, default=1000, help="On either side, at most.")
    parser.add_argument("--minutes", type=float, default=60.0, help="Record no longer than that.")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--few", type=int, default=80)
    parser.add_argument("--table", type=Path, default=HERE / "calibration.md")
    asked = parser.parse_args()
    began = time.perf_counter()
    model, train, others = taught(asked.train, asked.images, asked.epochs)
    val = load_data("demo", model.backbone)
    end = began + 60 * asked.minutes
    both = recorded(model, [(train, others), (val, val.subset(asked.images, 0))], end)
    dense = cost(model.backbone.facts, CompressionConfig()).macs
    lines = table(*both, [share * dense for share in SHARES], asked.few)
    lines.append(f"\n{time.perf_counter() - began:.0f} s in all.")
    asked.table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def recorded(
    model: CompressedViT, sides: list[tuple[DataSource, list[int]]], end: float
) -> list[Recorded]:
    """Of both sides as many images as the time until `end` allows, as many of each."""
    parts: list[list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = [[], []]
    for first in range(0, len(sides[0][1]), BATCH):
        if time.perf_counter() > end:
            break
        for found, (data, indices) in zip(parts, sides, strict=True):
            found.append(scored(model, data, indices[first : first + BATCH]))
        print(f"{first + BATCH} images of each side", flush=True)
    return [
        (np.concatenate([p[0] for p in found], 1), np.concatenate([p[1] for p in found]))
        for found in parts
    ]


def table(train: Recorded, val: Recorded, asked: list[float], few: int) -> list[str]:
    """Misses in percent of what was asked, with two standard errors of the difference."""
    lines = ["| found on | held against | asked GFLOPs | missed by % | 2 s.e. |",
             "|---|---|---|---|---|"]  # fmt: skip
    n, m = len(train[1]), len(val[1])
    halves = part(val, 0, m // 2), part(val, m // 2, m)
    for mean in asked:
        parts = [part(train, first, first + few) for first in range(0, n - few + 1, few)]
        errors = [missed(one, val, mean) for one in parts]
        worst = max((error for error, _ in errors), key=abs)
        rms = float(np.sqrt(np.mean([error**2 for error, _ in errors])))
        lines.append(
            f"| {len(parts)} times {few} training images | {m} validation images |"
            f" {mean / 1e9:.3f} | {rms:.1f} (root mean square), {worst:+.1f} at worst |"
            f" {errors[0][1]:.1f} |"
        )
        for what, against, one, other in (
            (f"{n} training images", f"{m} validation images", train, val),
            (f"{m // 2} validation images", f"the {m - m // 2} others", *halves),
            (f"{m - m // 2} validation images", f"the {m // 2} others", *halves[::-1]),
        ):
            error, spread = missed(one, other, mean)
            lines.append(f"| {what} | {against} | {mean / 1e9:.3f} | {error:+.1f} | {spread:.1f} |")
    return lines


def part(of: Recorded, first: int, last: int) -> Recorded:
    """Images [first, last)."""
    return of[0][:, first:last], of[1][first:last]


def missed(found_on: Recorded, other: Recorded, mean: float) -> tuple[float, float]:
    """(by how many percent other images miss the mean, two standard errors of the difference)."""
    tau = threshold_meeting(*found_on, mean)
    spent, own = stopped_costs(other, tau), stopped_costs(found_on, tau)
    error = np.sqrt(spent.var() / len(spent) + own.var() / len(own))
    return 100 * (spent.mean() / mean - 1), 200 * error / mean


def stopped_costs(of: Recorded, tau: float) -> np.ndarray:
    """(n,) multiply-accumulates of the images under a threshold."""
    sure, costs = of
    stopped = sure > tau
    first = np.where(stopped.any(0), stopped.argmax(0), len(sure))
    spent: np.ndarray = costs[np.arange(len(costs)), first]
    return spent


if __name__ == "__main__":
    main()
