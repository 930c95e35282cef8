"""Tell the digit from clutter, patch by patch, by a linear probe on features of the demo subnet.

    python studies/dense_demo/run.py --train 24 --images 48

The probe is fitted once, on dense features of the frozen uncompressed model, and read on what
`autotok.dense` gives of models at half its cost; on a smaller image, on its features brought back
to the grid of the whole one. Prints a table and writes results.csv beside itself.
"""

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

import autotok
from autotok.backbones.base import Backbone
from autotok.backbones.full_length import FILLS
from autotok.compression.dense import dense_rows
from autotok.evaluation.demo import DemoDigits

METHODS = ("tome", "topk", "random")
SMALLER = "smaller image"
SHOWN = {"topk": FILLS, "random": FILLS, SMALLER: ("nearest", "bilinear")}
"""How patches without features of their own get some, where there are any such."""
LAYERS = (2, 5, 8)
CLASSES = ("background", "clutter", "digit")
INK, INKED_SHARE = 0.3, 0.1
"""A pixel brighter than this is ink, far above the noise; a patch with so much of it is inked."""
ROUNDS = 2_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=int, default=24, help="canvases the probe is fitted on")
    parser.add_argument("--images", type=int, default=48, help="held-out canvases it is read on")
    given = parser.parse_args()
    autotok.reuse_large_blocks()
    backbone = autotok.load_backbone("autoformer_demo")
    whole = autotok.compress(backbone, autotok.CompressionConfig())
    probe = fitted(whole, DemoDigits("train", given.train))
    models = {"uncompressed": whole, **{name: half(backbone, name) for name in METHODS}}
    models[SMALLER] = shrunk(backbone)
    rows = []
    for name, model in models.items():
        tables = read(probe, model, DemoDigits("val", given.images))
        for fill in SHOWN.get(name, FILLS[:1]):
            shown = fill if name in SHOWN else "-"
            share = autotok.macs(model).macs / autotok.macs(whole).macs
            rows.append((name, shown, share, *figures(tables[fill]), given.images))
            print(
                f"{name:<13} {shown:<8} {100 * share:5.1f} % of the cost  mean IoU"
                " {3:5.1f} % [{4:5.1f}, {5:5.1f}]  digit {6:5.1f} %  {7} images".format(*rows[-1]),
                flush=True,
            )
    with (Path(__file__).parent / "results.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["method", "fill", "cost_share", "mean_iou_pct", "low_95", "high_95", "digit_iou_pct",
             "num_images"]
        )  # fmt: skip
        writer.writerows(
            [name, fill, *(f"{x:.3f}" for x in numbers), count]
            for name, fill, *numbers, count in rows
        )


def half(backbone: Backbone, method: str) -> autotok.CompressedViT:
    """The method at the largest keep ratios k, k^2, k^3 that cost at most half."""
    limit, low, high = autotok.macs(backbone).macs / 2, 0.5, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        model = autotok.compress(backbone, method=method, keep=keep(middle))
        low, high = (middle, high) if autotok.macs(model).macs <= limit else (low, middle)
    return autotok.compress(backbone, method=method, keep=keep(low))


def shrunk(backbone: Backbone) -> autotok.CompressedViT:
    """The uncompressed model on the largest image that costs at most half."""
    whole, step = autotok.macs(backbone).macs, backbone.facts.side_step
    for side in range(backbone.facts.image_shape[1] - step, 0, -step):
        model = autotok.compress(backbone, autotok.CompressionConfig(image_size=side))
        if autotok.macs(model).macs <= whole / 2:
            return model
    raise SystemExit("no image is small enough")


def keep(ratio: float) -> dict[int, float]:
    return {layer: ratio ** (step + 1) for step, layer in enumerate(LAYERS)}


def masks(digits: DemoDigits, index: int, grid: tuple[int, int]) -> NDArray[np.int64]:
    """(N0,): class of every patch, by ink and by where the generator put the digit."""
    canvas, _, box = digits.draw(index)
    side = canvas.shape[0] // grid[0]

    def inked(part: NDArray[np.bool_]) -> NDArray[np.bool_]:
        patches = part.reshape(grid[0], side, grid[1], side)
        return patches.mean(axis=(1, 3)).reshape(-1) >= INKED_SHARE

    own = np.zeros(canvas.shape, dtype=bool)
    own[box.top : box.top + box.side, box.left : box.left + box.side] = True
    ink = canvas > INK
    return np.where(inked(ink & own), 2, np.where(inked(ink), 1, 0))


@torch.inference_mode()
def features(
    model: autotok.CompressedViT, digits: DemoDigits
) -> Iterator[tuple[dict[str, NDArray[np.float32]], NDArray[np.int64]]]:
    """Of every canvas: features (N0, C) by how dropped patches are filled, and classes (N0,)."""
    backbone, grid = model.backbone, model.backbone.own_facts.grid
    for index in range(len(digits)):
        tokens = model.forward_tokens(digits[index][0][None], trace=True)
        if backbone.is_resized:
            rows = dense_rows(backbone, tokens)[:, tokens.num_prefix :]
            small = rows.transpose(1, 2).unflatten(2, backbone.facts.grid)
            maps = {fill: F.interpolate(small, grid, mode=fill) for fill in SHOWN[SMALLER]}
            found = {fill: x.flatten(2).transpose(1, 2) for fill, x in maps.items()}
        else:
            filled = {fill: dense_rows(backbone, tokens, fill=fill) for fill in FILLS}
            found = {fill: rows[:, tokens.num_prefix :] for fill, rows in filled.items()}
        yield {fill: rows[0].numpy() for fill, rows in found.items()}, masks(digits, index, grid)


def fitted(model: autotok.CompressedViT, digits: DemoDigits) -> LogisticRegression:
    """The probe."""
    shown = [(patches["nearest"], classes) for patches, classes in features(model, digits)]
    inputs, classes = (np.concatenate(part) for part in zip(*shown, strict=True))
    return LogisticRegression(max_iter=300).fit(inputs, classes)


def read(
    probe: LogisticRegression, model: autotok.CompressedViT, digits: DemoDigits
) -> dict[str, NDArray[np.int64]]:
    """(n, classes, classes) patches of every image by true and by said class, for every fill."""
    tables: dict[str, list[NDArray[np.int64]]] = {}
    size = len(CLASSES)
    for patches, classes in features(model, digits):
        for fill, inputs in patches.items():
            pairs = classes * size + probe.predict(inputs)
            tables.setdefault(fill, []).append(
                np.bincount(pairs, minlength=size * size).reshape(size, size)
            )
    return {fill: np.stack(found) for fill, found in tables.items()}


def figures(tables: NDArray[np.int64]) -> tuple[float, float, float, float]:
    """Percent: mean intersection over union, its 95 % bootstrap interval over images, digit's."""
    draws = np.random.default_rng(0).integers(0, len(tables), (ROUNDS, len(tables)))
    means = ious(tables[draws].sum(axis=1)).mean(axis=-1)
    low, high = np.percentile(means, [2.5, 97.5])
    own = ious(tables.sum(axis=0))
    return float(own.mean()), float(low), float(high), float(own[2])


def ious(table: NDArray[np.int64]) -> NDArray[np.float64]:
    """(..., classes) percent of tables (..., classes, classes)."""
    both = np.diagonal(table, axis1=-2, axis2=-1)
    return 100.0 * both / (table.sum(axis=-1) + table.sum(axis=-2) - both)


if __name__ == "__main__":
    main()
