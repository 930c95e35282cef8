"""Which images a step sees: pure functions of (seed, batch number)."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import torch
from numpy.typing import NDArray

from autotok.evaluation.data import DataSource

# two streams of one seed: what crops draw never changes the order
_ORDER, _CROP = 0x0BDE2, 0xC209F
_IDENTITY_IMAGES = 16


class BatchOrder:
    """Batches of data indices; each epoch is another shuffle, images are looked up when needed.

    The first epoch takes the data's own seeded order as it comes, so that a fine-tune shorter than
    an epoch touches its own images only. What does not fill a batch at the end of an epoch is left
    out of it. The first `skip` images of that order are never among them.
    """

    def __init__(
        self, data: DataSource, seed: int, batch_size: int, num_images: int, *, skip: int = 0
    ) -> None:
        self.batch_size = min(batch_size, num_images)
        self.per_epoch = num_images // self.batch_size
        self._data, self._seed, self.skip = data, seed, skip
        self.num_images = num_images
        self._shuffled: tuple[int, NDArray[np.int64]] = (0, np.arange(num_images))

    def indices(self, number: int) -> list[int]:
        """Data indices of batch `number`, counted from 0 over all epochs."""
        epoch, local = divmod(number, self.per_epoch)
        if self._shuffled[0] != epoch:
            self._shuffled = (epoch, self._shuffle(epoch))
        first = local * self.batch_size
        positions = self._shuffled[1][first : first + self.batch_size]
        known = self._data.subset(self.skip + int(positions.max()) + 1, self._seed)
        known = known[self.skip :] or known
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


def augmentation_draws(seed: int, number: int) -> np.random.Generator:
    """The randomness that varies the images of batch `number`."""
    return np.random.default_rng([seed, _CROP, number])


def seed_streams(seed: int, device: torch.device) -> None:
    """Start torch's random streams of the CPU, and of `device` where that is another, at a seed.

    `torch.manual_seed` also notes the seed for every kind of accelerator that is not in use, each
    time with the whole stack written out, which takes longer than a step of a small model.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)
