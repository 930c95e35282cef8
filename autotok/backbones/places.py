"""Where tokens came from, for blocks that look positions up: rotary angles and position biases.

A token keeps the place in the original grid that it was embedded at, whatever went before it in the
sequence: tables over the grid are read at `Tokens.coords`, never at where a token now stands. One
that holds several patches stands at one of their places, that of its representative.
"""

from __future__ import annotations

import torch
from torch import Tensor

from autotok.tokens import Tokens


def places_of(tokens: Tokens) -> Tensor | None:
    """(B, n) int64, each patch token's place in the grid's raster order; None where that is what
    they are in, all of them."""
    if tokens.raster:
        return None
    assert tokens.coords is not None, "facts.carries_positions says that coordinates travel"
    rows, columns = tokens.grid
    row, column = tokens.coords.unbind(-1)
    return (row * columns + column).clamp(max=rows * columns - 1)  # naive ones may end below


def angles_at(table: Tensor, tokens: Tokens) -> Tensor:
    """Sines and cosines of every patch token, to be broadcast over (B, H, n, 2 D).

    `table` is the whole grid's, (N0, 2 D), or (H, N0, 2 D) where heads turn differently.
    """
    places = places_of(tokens)
    if places is None:
        return table
    if table.dim() == 2:
        return table[places].unsqueeze(1)
    return table[:, places].transpose(0, 1)


def turned(x: Tensor, angles: Tensor, num_prefix: int, *, halves: bool) -> Tensor:
    """Queries or keys (B, H, N, D) turned by the angles of their places; prefix tokens have none.

    Args:
        x: Prefix tokens first.
        angles: As `angles_at` gives them: the sines, then the cosines, of every channel.
        num_prefix: P.
        halves: Channel c turns with channel c + D / 2; else each even one with its neighbour.
    """
    sines, cosines = angles.chunk(2, dim=-1)
    patches = x[:, :, num_prefix:]
    if halves:
        first, second = patches.chunk(2, dim=-1)
        across = torch.cat([-second, first], dim=-1)
    else:
        across = torch.stack([-patches[..., 1::2], patches[..., ::2]], dim=-1).flatten(-2)
    patches = (patches * cosines + across * sines).to(x.dtype)
    return torch.cat([x[:, :, :num_prefix], patches], dim=2) if num_prefix else patches


def bias_between(bias: Tensor, tokens: Tokens) -> Tensor:
    """(B or 1, H, N, N) to add to the logits, of the whole grid's (H, P + N0, P + N0)."""
    places = places_of(tokens)
    if places is None:
        return bias.unsqueeze(0)
    prefix = torch.arange(tokens.num_prefix, device=places.device).expand(places.shape[0], -1)
    own = torch.cat([prefix, places + tokens.num_prefix], dim=1)  # (B, N)
    pairs = own.unsqueeze(2) * bias.shape[-1] + own.unsqueeze(1)
    return bias.flatten(1)[:, pairs].transpose(0, 1)
