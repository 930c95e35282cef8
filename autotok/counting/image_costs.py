"""`ImageCosts`: what each image cost, where images cost different amounts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_ERRORS = 2.0
"""Standard errors of the mean cost by which a calibration stays below what is allowed: images that
it did not see cost a little more or less."""


@dataclass(frozen=True)
class ImageCosts:
    """Multiply-accumulates per image."""

    macs: NDArray[np.int64]
    """(B,)."""
    macs_noattn: NDArray[np.int64]
    """(B,), attention products left out."""
    tokens: NDArray[np.int64]
    """(B, L + 1): live patch tokens in each block's attention, then at the read-out."""
    exits: tuple[int, ...] = ()
    """Images that stopped at each exit, then those that went on to the end; () without exits."""

    @property
    def mean(self) -> float:
        """Over the images."""
        return float(self.macs.mean())

    @property
    def spread(self) -> float:
        """Standard deviation over the images."""
        return float(self.macs.std())

    @property
    def high(self) -> float:
        """What the mean over other images hardly exceeds."""
        return self.mean + _ERRORS * self.spread / math.sqrt(len(self.macs))
