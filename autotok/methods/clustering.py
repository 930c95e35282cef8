"""What the clustering and soft-merging methods share: distances, starts, and who is left over.

All of these methods act before a block on patch tokens only, keep a fixed number of tokens, and
leave sizes alone unless `track_size` is on, as the code they are held to does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Option

TRACK_SIZE = Option(
    "track_size",
    False,
    "count the patches each token stands for, and add log size to later attention logits",
    model_wide=True,
)
OFFICIAL = ((r"cluster_layers\.(\d+)\.(.+)", r"\2"),)
"""Where the TokenReduction code keeps the parameters of a stage."""


@torch.no_grad()
def distances(x: Tensor) -> Tensor:
    """(B, n, n) Euclidean distances of tokens (B, n, C), in float32 at least, 0 to oneself.

    By one matrix product of the centred tokens: centring changes no distance and keeps the digits
    that a large common part would eat. n * n * C multiply-accumulates.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    x = x - x.mean(dim=1, keepdim=True)
    norms = x.square().sum(dim=-1)  # (B, n)
    squared = norms[:, :, None] + norms[:, None, :] - 2.0 * (x @ x.transpose(1, 2))
    index = torch.arange(x.shape[1], device=x.device)
    squared = squared.masked_fill(index[:, None] == index, 0.0)
    return squared.clamp_min(0.0).sqrt()


@torch.no_grad()
def farthest_points(distance: Tensor, count: int, *, first: int, reach: str = "nearest") -> Tensor:
    """(B, count) tokens spread over the set: each next one is farthest from those chosen.

    Args:
        distance: (B, n, n).
        count: How many.
        first: The token to begin with, the same for every image.
        reach: 'nearest' measures to the nearest chosen token, as usual; 'farthest' to the farthest
            chosen one, as the TokenReduction code does.
    """
    batch, total, _ = distance.shape
    index = torch.arange(total, device=distance.device)
    picked = torch.full((batch, 1), first, dtype=torch.int64, device=distance.device)
    taken = (index == first).expand(batch, total)
    spread = distance[:, first]  # (B, n)
    chosen = [picked]
    for _ in range(count - 1):
        picked = spread.masked_fill(taken, -1.0).argmax(dim=1, keepdim=True)
        chosen.append(picked)
        taken = taken | (index == picked)
        row = distance.gather(1, picked[:, :, None].expand(-1, 1, total)).squeeze(1)
        spread = torch.minimum(spread, row) if reach == "nearest" else torch.maximum(spread, row)
    return torch.cat(chosen, dim=1)


def left_over(chosen: Tensor, total: int) -> Tensor:
    """(B, total - k) the positions not in `chosen` (B, k), distinct, in rising order."""
    taken = torch.zeros(chosen.shape[0], total, dtype=torch.int64, device=chosen.device)
    taken = taken.scatter(1, chosen, torch.ones_like(chosen))
    place = taken * total + torch.arange(total, device=chosen.device)  # those free sort first
    return place.sort(dim=1).values[:, : total - chosen.shape[1]]
