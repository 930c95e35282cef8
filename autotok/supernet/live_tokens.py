"""Training where only few tokens are live, at the real canvas and the real positions.

Of each canvas all patches of the whole digit are kept, and a sample of the clutter and of the empty
patches. A sampled patch stands for the ones left out: its `size` is their number per sample, so
that proportional attention and the weighted mean see an estimate of the whole canvas. Early on the
sizes are flattened (`weight_power` below 1), so that the digit is not drowned before it is
recognised.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from autotok.backbones.supernet import SupernetView
from autotok.evaluation.demo import CANVAS, DigitBox
from autotok.tokens import Tokens

INK = 0.15
"""A patch counts as written on if its brightest pixel exceeds this."""


@dataclass(frozen=True)
class LiveTokens:
    """Indices (K,) of the live patches of one canvas and what each stands for (K,)."""

    index: NDArray[np.int64]
    size: NDArray[np.float32]


def choose_live(
    canvas: NDArray[np.float32],
    box: DigitBox,
    patch_size: int,
    count: int,
    weight_power: float,
    rng: np.random.Generator,
) -> LiveTokens:
    """`count` live patches of a raw canvas: all of the digit, a sample of the rest."""
    side = CANVAS // patch_size
    brightest = canvas.reshape(side, patch_size, side, patch_size).max(axis=(1, 3))
    is_digit = np.zeros((side, side), bool)
    is_digit[tuple(box.patches(patch_size).T)] = True
    written = brightest > INK
    digit = np.flatnonzero(is_digit)
    clutter = np.flatnonzero(written & ~is_digit)
    empty = np.flatnonzero(~written & ~is_digit)
    room = count - len(digit)
    num_clutter = min(len(clutter), int(room * rng.uniform(0.5, 0.75)))
    num_clutter = max(num_clutter, room - len(empty))
    num_empty = room - num_clutter
    index = np.concatenate(
        [digit, rng.choice(clutter, num_clutter, False), rng.choice(empty, num_empty, False)]
    )
    size = np.ones(count, np.float32)
    size[len(digit) : len(digit) + num_clutter] = len(clutter) / max(num_clutter, 1)
    size[len(digit) + num_clutter :] = len(empty) / max(num_empty, 1)
    return LiveTokens(index.astype(np.int64), size**weight_power)


def forward_live(view: SupernetView, images: Tensor, index: Tensor, size: Tensor) -> Tensor:
    """Logits from the live patches only: images (B, C, S, S), index and size (B, K)."""
    facts = view.facts
    weight, bias, cls_token, table = view.stem_tensors()
    pixels = F.unfold(images, facts.patch_size, stride=facts.patch_size).transpose(1, 2)
    live = pixels.gather(1, index[..., None].expand(-1, -1, pixels.shape[-1]))  # (B, K, C * p * p)
    x = live @ weight.flatten(1).T + bias + table[0, 1:][index]
    first = (cls_token + table[:, :1]).expand(x.shape[0], -1, -1)
    columns = facts.grid[1]
    coords = torch.stack([torch.div(index, columns, rounding_mode="floor"), index % columns], -1)
    tokens = Tokens(
        torch.cat([first, x], dim=1), 1, facts.grid, raster=False, size=size, coords=coords
    )
    return view.readout(view.run_blocks(tokens))
