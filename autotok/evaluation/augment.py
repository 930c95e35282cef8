"""Variation of training images, by name: pure functions of the images and a generator."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from autotok.names import known

AUGMENTS = ("none", "crop-flip")


def check_augment(name: str) -> None:
    """Raise `UnknownName` unless the augmentation is known."""
    known("augmentation", name, AUGMENTS)


def augmented(
    images: Tensor,
    name: str,
    rng: np.random.Generator,
    *,
    rows: Sequence[int] | None = None,
    total: int | None = None,
) -> Tensor:
    """Images (B, C, H, W), varied as `name` says.

    Where they are a part of a batch of `total`, `rows` says which: they are varied as in the whole.

    'crop-flip': reflect padding by an eighth of the side, a random crop back to size, and a
    horizontal flip of every second image on average.
    """
    if name == "none":
        return images
    height, width = images.shape[-2:]
    batch = len(images) if total is None else total
    chosen = range(batch) if rows is None else rows
    pad_y, pad_x = max(1, height // 8), max(1, width // 8)
    padded = F.pad(images, (pad_x, pad_x, pad_y, pad_y), mode="reflect")
    tops = rng.integers(0, 2 * pad_y + 1, batch)
    lefts = rng.integers(0, 2 * pad_x + 1, batch)
    flips = rng.random(batch) < 0.5
    crops = []
    for image, row in zip(padded, chosen, strict=True):
        top, left, flip = tops[row], lefts[row], flips[row]
        crop = image[:, top : top + height, left : left + width]
        crops.append(crop.flip(-1) if flip else crop)
    return torch.stack(crops)
