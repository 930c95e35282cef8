"""The demo's weights, trained with every token, merged at four degrees, with and without ToCom.

    python studies/tocom_demo/run.py --steps 80 --images 100

Trains the adapters once, shortly, then folds them for each degree. Prints a table and writes
results.csv beside itself.
"""

import argparse
import csv
import tempfile
import time
from pathlib import Path

from autotok.backbones.loading import load_backbone
from autotok.compression.compress import compress_backbone
from autotok.compression.folding import pinned
from autotok.config import CompressionConfig
from autotok.counting.macs import cost
from autotok.evaluation.accuracy import Evaluator
from autotok.evaluation.data import load_data
from autotok.methods.author_units import from_num_removed
from autotok.methods.tocom import removed_at
from autotok.training.pair_distillation import PairSpec, distil_pairs, save_adapters

DEGREES = (4, 8, 12, 16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--images", type=int, default=100)
    asked = parser.parse_args()
    backbone = load_backbone("autoformer_demo")
    facts, began = backbone.facts, time.perf_counter()
    spec = PairSpec(
        steps=asked.steps, batch_size=asked.batch_size, lr=asked.lr, augment="none", seed=0
    )
    losses: list[float] = []
    adapters = distil_pairs(
        backbone,
        load_data("demo", backbone, split="train"),
        spec,
        on_step=lambda step, loss: losses.append(loss),
    )
    third = max(1, len(losses) // 3)
    print(
        f"adapters: {spec.steps} steps of {spec.batch_size} images in"
        f" {(time.perf_counter() - began) / 60:.1f} min, mean loss {mean(losses[:third]):.5f} in"
        f" the first third, {mean(losses[-third:]):.5f} in the last",
        flush=True,
    )
    data = load_data("demo", backbone)
    judges = [Evaluator(backbone, data, metric=metric, seed=0) for metric in ("top1", "kl")]
    rows = [row("none", 0, CompressionConfig(), judges, asked.images)]
    with tempfile.TemporaryDirectory() as folder:
        path = save_adapters(adapters, Path(folder) / "adapters.safetensors", backbone, spec)
        for degree in DEGREES:
            reductions = from_num_removed(
                removed_at(degree, facts, rescaled=True),
                facts.num_patches,
                num_blocks=facts.num_blocks,
                at_most_half=True,
            )
            for method, options in (("tome", {}), ("tocom", {"adapters": str(path)})):
                config = pinned(CompressionConfig(method, reductions, options))
                rows.append(row(method, degree, config, judges, asked.images))
    with (Path(__file__).parent / "results.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["method", "degree", "macs_g", "top1_pct", "low_95", "high_95", "kl", "num_images"]
        )
        writer.writerows(rows)


def row(
    method: str, degree: int, config: CompressionConfig, judges: list[Evaluator], images: int
) -> tuple[str | int, ...]:
    """One line of the table, printed."""
    backbone = judges[0].backbone
    model = compress_backbone(backbone, config)
    top1, kl = (judge.evaluate(model, 0, images).quality() for judge in judges)
    macs_g = cost(backbone.facts, config).macs / 1e9
    print(
        f"{method:<6} degree {degree:>2}  {macs_g:4.2f} GFLOPs  top-1 {top1.value:5.1f} %"
        f"  [{top1.low:5.1f}, {top1.high:5.1f}]  kl {kl.value:7.4f}  {top1.num_images} images",
        flush=True,
    )
    figures = (f"{macs_g:.3f}", *(f"{v:.2f}" for v in (top1.value, top1.low, top1.high)))
    return method, degree, *figures, f"{kl.value:.4f}", top1.num_images


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    main()
