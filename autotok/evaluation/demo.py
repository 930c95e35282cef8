"""The built-in data set `demo`: cluttered digits, made on the fly from a seed.

One whole handwritten digit (scikit-learn's digits: real 8x8 scans) stands at random size and place
on a large canvas among fragments of other digits. Most of the canvas is empty, which is what token
compression is about, and where the digit is, is known. Train and validation images are built from
disjoint source digits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotok.errors import DataError

CANVAS = 232
"""Side of the square canvas in pixels."""
CLASS_NAMES = tuple(str(digit) for digit in range(10))
MEAN, STD = 0.1, 0.25
# of scikit-learn's 1,797 digits: no digit that is judged on was trained on
NUM_VALIDATION_SOURCES = 400
SPLITS = ("train", "val")

Image = NDArray[np.float32]


@dataclass(frozen=True)
class DigitBox:
    """Where the whole digit stands, in pixels: top, left and side of a square."""

    top: int
    left: int
    side: int

    def patches(self, patch_size: int) -> NDArray[np.int64]:
        """(k, 2) rows and columns of the patches that the box touches."""
        rows = range(self.top // patch_size, (self.top + self.side - 1) // patch_size + 1)
        columns = range(self.left // patch_size, (self.left + self.side - 1) // patch_size + 1)
        return np.array([(r, c) for r in rows for c in columns], dtype=np.int64)


@dataclass(frozen=True)
class DemoDigits:
    """A map-style data set; image `index` depends on (split, seed, index) alone.

    Args:
        split: 'train' or 'val'; their source digits are disjoint.
        size: Number of images; labels are balanced (index modulo 10).
        seed: Another seed gives other canvases of the same source digits.
        clutter: Share of the usual number of fragments, 0 to 1.
        side: Smallest and largest side of the whole digit, in pixels.
    """

    split: str
    size: int
    seed: int = 0
    clutter: float = 1.0
    side: tuple[int, int] = (24, 44)

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise DataError(f"demo split '{self.split}' is unknown; choose train or val")

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """(1, CANVAS, CANVAS) float32, normalised, and the label 0-9."""
        if not 0 <= index < self.size:
            raise IndexError(index)
        canvas, label, _ = self.draw(index)
        return torch.from_numpy((canvas - MEAN) / STD)[None], label

    def label(self, index: int) -> int:
        """The label alone, without drawing."""
        return index % len(CLASS_NAMES)

    def digit_box(self, index: int) -> DigitBox:
        """Where the whole digit of an image stands."""
        return self.draw(index)[2]

    def draw(self, index: int) -> tuple[Image, int, DigitBox]:
        """Raw canvas (CANVAS, CANVAS) in about [0, 1], its label, and where the digit stands."""
        key = [self.seed, index, SPLITS.index(self.split)]
        rng = np.random.default_rng(key)
        images, by_label = _sources(self.split)
        label = self.label(index)
        pick = by_label[label][rng.integers(len(by_label[label]))]
        side = int(rng.integers(self.side[0], self.side[1] + 1))
        top, left = (int(v) for v in rng.integers(0, CANVAS - side + 1, 2))
        box = DigitBox(top, left, side)
        canvas: Image = np.zeros((CANVAS, CANVAS), np.float32)
        for _ in range(round(self.clutter * int(rng.integers(8, 15)))):
            self._paste_fragment(canvas, box, images, rng)
        view = canvas[top : top + side, left : left + side]
        np.maximum(view, _resize(images[pick], side) * _contrast(rng), out=view)
        canvas += rng.normal(0.0, 0.02, canvas.shape).astype(np.float32)
        return canvas, label, box

    def _paste_fragment(
        self, canvas: Image, box: DigitBox, images: Image, rng: np.random.Generator
    ) -> None:
        """Add a piece, about half as wide and high, of some digit, clear of the whole one."""
        side = int(rng.integers(self.side[0], self.side[1] + 1))
        digit = _resize(images[rng.integers(len(images))], side)
        height, width = (int(side * share) for share in rng.uniform(0.35, 0.55, 2))
        from_top = int(rng.integers(0, side - height + 1))
        from_left = int(rng.integers(0, side - width + 1))
        piece = digit[from_top : from_top + height, from_left : from_left + width]
        piece = piece * _contrast(rng)
        for _ in range(5):
            top = int(rng.integers(0, CANVAS - height + 1))
            left = int(rng.integers(0, CANVAS - width + 1))
            above = top + height < box.top - 2 or top > box.top + box.side + 2
            beside = left + width < box.left - 2 or left > box.left + box.side + 2
            if above or beside:
                view = canvas[top : top + height, left : left + width]
                np.maximum(view, piece, out=view)
                return


def _contrast(rng: np.random.Generator) -> np.float32:
    level: np.float32 = np.float32(rng.uniform(0.7, 1.0))
    return level


@cache
def _sources(split: str) -> tuple[Image, tuple[NDArray[np.int64], ...]]:
    """Scans (n, 8, 8) in [0, 1] of one split, and their indices by label."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    chosen = order[:NUM_VALIDATION_SOURCES] if split == "val" else order[NUM_VALIDATION_SOURCES:]
    images = (data.images[chosen] / 16.0).astype(np.float32)
    labels = data.target[chosen]
    return images, tuple(np.flatnonzero(labels == digit) for digit in range(10))


@cache
def _weights(length: int, side: int) -> Image:
    """(side, length) bilinear interpolation weights, pixel centres aligned."""
    centre = (np.arange(side) + 0.5) * length / side - 0.5
    low = np.floor(centre).astype(int)
    share = centre - low
    matrix = np.zeros((side, length), np.float32)
    rows = np.arange(side)
    np.add.at(matrix, (rows, low.clip(0, length - 1)), 1.0 - share)
    np.add.at(matrix, (rows, (low + 1).clip(0, length - 1)), share)
    return matrix


def _resize(scan: Image, side: int) -> Image:
    weights = _weights(scan.shape[0], side)
    resized: Image = weights @ scan @ weights.T
    return resized
