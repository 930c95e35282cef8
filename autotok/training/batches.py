"""Which images a step sees and how they are varied: pure functions of (seed, batch number)."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from autotok.errors import ConfigError, nearest
from autotok.evaluation.data import DataSource

__all__ = ["AUGMENTS", "BatchOrder", "augmented", "check_augment", "data_identity"]

AUGMENTS = ("none", "crop-flip")
_ORDER, _CROP = 0x0BDE2, 0xC209F
_IDENTITY_IMAGES = 16


class BatchOrder:
    """Batches of data indices; each epoch is another shuffle, images are looked up when needed.

    The first epoch takes the data's own seeded order as it comes, so that a fine-tune shorter than
    an epoch touches its own images only. What does not fill a batch at the end of an epoch is left
    out of it.
    """

    def __init__(self, data: DataSource, seed: int, batch_size: int, num_images: int) -> None:
        self.batch_size = min(batch_size, num_images)
        self.per_epoch = num_images // self.batch_size
        self._data, self._seed = data, seed
        self.num_images = num_images
        self._shuffled: tuple[int, NDArray[np.int64]] = (0, np.arange(num_images))

    def indices(self, number: int) -> list[int]:
        """Data indices of batch `number`, counted from 0 over all epochs."""
        epoch, local = divmod(number, self.per_epoch)
        if self._shuffled[0] != epoch:
            self._shuffled = (epoch, self._shuffle(epoch))
        first = local * self.batch_size
        positions = self._shuffled[1][first : first + self.batch_size]
        known = self._data.subset(int(positions.max()) + 1, self._seed)
        # an unreadable image shortens the order; its place is taken by an earlier one
        return [known[int(p) % len(known)] for p in positions]

    def _shuffle(self, epoch: int) -> NDArray[np.int64]:
        if epoch == 0:
            return np.arange(self.num_images)
        return np.random.default_rng([self._seed, _ORDER, epoch]).permutation(self.num_images)


def data_identity(data: DataSource) -> str:
    """Short hash of what a resumed fine-tune must find unchanged; reads a few images."""
    first = data.subset(_IDENTITY_IMAGES, 0)
    images, _ = data.batch(first[:1])
    plain = [data.name, data.labelled, list(data.class_names or ()), first, list(images.shape)]
    digest = hashlib.sha256(json.dumps(plain).encode())
    digest.update(images.contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def check_augment(name: str) -> None:
    """Raise `ConfigError` unless the augmentation is known."""
    if name not in AUGMENTS:
        raise ConfigError(
            f"fine-tune augment '{name}' is unknown;{nearest(name, AUGMENTS)} known:"
            f" {', '.join(AUGMENTS)}"
        )


def augmented(images: Tensor, name: str, seed: int, number: int) -> Tensor:
    """Images (B, C, H, W) of batch `number`, cropped and flipped at random if `name` says so.

    'crop-flip': reflect padding by an eighth of the side, a random crop back to size, and a
    horizontal flip of every second image on average.
    """
    if name == "none":
        return images
    rng = np.random.default_rng([seed, _CROP, number])
    height, width = images.shape[-2:]
    pad_y, pad_x = height // 8, width // 8
    padded = F.pad(images, (pad_x, pad_x, pad_y, pad_y), mode="reflect")
    result = []
    for image in padded:
        top, left = int(rng.integers(2 * pad_y + 1)), int(rng.integers(2 * pad_x + 1))
        view = image[:, top : top + height, left : left + width]
        result.append(view.flip(-1) if rng.random() < 0.5 else view)
    return torch.stack(result)
