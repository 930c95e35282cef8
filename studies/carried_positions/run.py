"""Remove a few tokens in every layer of the demo subnet, with carried and with naive positions.

    python studies/carried_positions/run.py --images 150

Carried: relative positions are looked up by where a token came from. Naive: they are rebuilt from
the sequence length, as AutoFormer's own code does. Prints a table and writes results.csv beside
itself.
"""

import argparse
import csv
from pathlib import Path

from autotok.backbones.loading import load_backbone
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig
from autotok.evaluation.accuracy import Evaluator, Quality
from autotok.evaluation.data import load_data
from autotok.methods.author_units import from_num_removed

METHODS = ("random", "tome")
REMOVED_PER_LAYER = (1, 8, 32, 56)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=150)
    images = parser.parse_args().images
    backbone = load_backbone("autoformer_demo")
    evaluator = Evaluator(backbone, load_data("demo", backbone), metric="top1", seed=0)
    rows = [("uncompressed", 0, "carried", 0, evaluator.reference(0, images).quality())]
    show(rows[-1])
    facts = backbone.facts
    for method in METHODS:
        for removed in REMOVED_PER_LAYER:
            reductions = from_num_removed(removed, facts.num_patches, num_blocks=facts.num_blocks)
            for positions in ("carried", "naive"):
                config = CompressionConfig(method, reductions, positions=positions)
                quality = evaluator.evaluate(compress_backbone(backbone, config), 0, images)
                rows.append(
                    (method, removed, positions, reductions[-1].num_keep, quality.quality())
                )
                show(rows[-1])
    with (Path(__file__).parent / "results.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["method", "removed_per_layer", "positions", "patches_left", "top1_pct", "low_95",
             "high_95", "num_images"]
        )  # fmt: skip
        for method, removed, positions, left, q in rows:
            figures = [f"{value:.2f}" for value in (q.value, q.low, q.high)]
            writer.writerow([method, removed, positions, left, *figures, q.num_images])


def show(row: tuple[str, int, str, int | None, Quality]) -> None:
    method, removed, positions, _, q = row
    print(
        f"{method:<13} {removed:>3} a layer  {positions:<8} top-1 {q.value:5.1f} %"
        f"  [{q.low:5.1f}, {q.high:5.1f}]  {q.num_images} images",
        flush=True,
    )


if __name__ == "__main__":
    main()
