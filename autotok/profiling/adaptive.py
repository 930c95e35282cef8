"""Cost of methods whose token counts differ from image to image: counted on images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotok.compression.model import CompressedViT, Watch
from autotok.methods.registry import get_method

from .macs import counted_macs

__all__ = ["ImageCosts", "image_costs"]


@dataclass(frozen=True)
class ImageCosts:
    """Multiply-accumulates per image."""

    macs: NDArray[np.int64]
    """(B,)."""
    tokens: NDArray[np.int64]
    """(B, L + 1): live patch tokens in each block's attention, then at the read-out."""

    @property
    def mean(self) -> float:
        """Over the images."""
        return float(self.macs.mean())

    @property
    def spread(self) -> float:
        """Standard deviation over the images."""
        return float(self.macs.std())


@torch.no_grad()
def image_costs(model: CompressedViT, images: Tensor) -> ImageCosts:
    """What each of the images (B, channels, height, width) costs, by the token counts it had.

    Padding costs nothing here: it is what a batch adds, not what the method needs.
    """
    watch = Watch(counting=True)
    model.forward_tokens(images, watch=watch)
    blocks = model.backbone.facts.num_blocks

    def table(name: str) -> NDArray[np.int64]:
        rows = [getattr(watch.counts[layer], name) for layer in range(blocks + 1)]
        return np.stack([_plain(row) for row in rows], axis=1)  # (B, L + 1)

    entering, attention, mlp = table("entering"), table("attention"), table("mlp")
    macs = counted_macs(
        model.backbone.facts,
        get_method(model.config.method),
        model.config,
        entering=entering,
        attention=attention[:, :-1],
        mlp=mlp[:, :-1],
        readout=attention[:, -1],
    )
    return ImageCosts(macs, attention)


def _plain(counts: Tensor) -> NDArray[np.int64]:
    return counts.cpu().numpy().astype(np.int64)
