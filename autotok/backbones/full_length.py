"""Rows of tokens put back to the length that the image had, by the patches that tokens hold."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from autotok.tokens import Tokens, grid_coords

FILLS = ("nearest", "zeros")
"""What a patch gets that no token holds."""


def at_full_length(rows: Tensor, tokens: Tokens, *, fill: str = "zeros") -> Tensor:
    """(B, P + N0, C) of rows (B, P + n, C): every patch has the row of the token that holds it.

    A patch that no live token holds, parked ones included, has zeros, or with `fill` 'nearest' what
    the nearest patch on the grid has that is held, of several the first in raster order; zeros
    still where an image has no token left.
    """
    if tokens.raster:  # every patch is there, in its order
        return rows
    assert tokens.source is not None, "trace the tokens"
    source = tokens.source
    if tokens.num_patches == 0:
        rows = F.pad(rows, (0, 0, 0, 1))  # a row to point at
        source = source.new_zeros(len(rows), 1, source.shape[2])
    elif tokens.live is not None:
        source = source & tokens.live.unsqueeze(-1)
    held, holder = source.any(dim=1), source.to(torch.uint8).argmax(dim=1)  # (B, N0)
    if fill == "nearest":
        near = _nearest(held, tokens.grid)
        held, holder = held.gather(1, near), holder.gather(1, near)
    prefix, patches = rows[:, : tokens.num_prefix], rows[:, tokens.num_prefix :]
    index = holder.unsqueeze(-1).expand(-1, -1, rows.shape[-1])
    found = patches.gather(1, index).masked_fill(~held.unsqueeze(-1), 0.0)
    return torch.cat([prefix, found], dim=1)


def _nearest(held: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, N0): of every patch the nearest one that is held, which for a held one is itself."""
    places = grid_coords(grid, device=held.device)[0].float()
    far = torch.cdist(places, places).expand(len(held), -1, -1)
    return far.masked_fill(~held.unsqueeze(1), torch.inf).argmin(dim=-1)
