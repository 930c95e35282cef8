"""Rounds of K-medoids and K-means over token sets, image by image, as matrix operations."""

from __future__ import annotations

import torch
from torch import Tensor

from .primitives import above_zero, falling, gather_rows

_STEPS = 64.0
"""Times what distances are off by, in which those of far tokens are compared."""


def reference_step(distance: Tensor, weights: Tensor | None, medoids: Tensor) -> Tensor:
    """Medoids (B, k) after one round, by distances to all tokens times the own weight."""
    cost = distance.sum(dim=-1)
    cost = cost if weights is None else cost * weights  # (B, n)
    members = _members(distance, medoids)
    return torch.where(members, cost[:, None], 1e6 * distance.shape[1]).argmin(dim=-1)


def textbook_step(distance: Tensor, weights: Tensor | None, medoids: Tensor) -> Tensor:
    """Medoids (B, k) after one round, by weighted distances to the own cluster."""
    members = _members(distance, medoids)  # (B, k, n)
    assignment = members.to(torch.int64).argmax(dim=1)
    together = assignment[:, None, :] == assignment[:, :, None]
    share = distance if weights is None else distance * weights[:, None]
    cost = (share * together).sum(dim=-1)  # (B, n)
    rounding = _rounding(distance) if weights is None else 0.0  # weights leave nothing to chance
    best = _first_least(cost[:, None], members, rounding)
    return torch.where(members.any(dim=-1), best, medoids)


def _rounding(distance: Tensor) -> Tensor:
    """(B, 1, 1) more than distances are off by, for being differences of large products."""
    return 1e-5 * distance.mean(dim=(1, 2), keepdim=True)


def _first_least(cost: Tensor, members: Tensor, rounding: Tensor | float) -> Tensor:
    """(B, k) the member (B, k, n) of least cost, the first of those that are as good but for
    rounding: both of a pair always are, and runtimes round differently."""
    inside = torch.where(members, cost, torch.inf)
    least = inside <= inside.amin(dim=-1, keepdim=True) + rounding
    spot = torch.arange(members.shape[2], device=members.device)
    return torch.where(least, spot, spot.numel()).amin(dim=-1)


def _members(distance: Tensor, medoids: Tensor) -> Tensor:
    """(B, k, n) bool: which tokens are nearest to which medoid; the first wins a tie."""
    assignment = gather_rows(distance, medoids).argmin(dim=1)
    cluster = torch.arange(medoids.shape[1], device=medoids.device)
    return assignment[:, None] == cluster[None, :, None]


def to_means(x: Tensor, means: Tensor) -> Tensor:
    """(B, k, n) squared distances of tokens (B, n, C) to means (B, k, C)."""
    centre = x.mean(dim=1, keepdim=True)
    x, means = x - centre, means - centre
    product = means @ x.transpose(1, 2)
    squared = means.square().sum(-1)[:, :, None] + x.square().sum(-1)[:, None] - 2.0 * product
    return squared.clamp_min(0.0)


def filled(distance: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Clusters of the tokens (B, n) by distances (B, k, n), none empty; their nearest members.

    An empty cluster takes the token farthest from its own mean that is no other cluster's nearest
    member; the next empty one takes the next such token.
    """
    index = torch.arange(count, device=distance.device)
    own, assignment = distance.min(dim=1)  # (B, n)
    members = assignment[:, None] == index[None, :, None]
    nearest = _first_least(distance, members, _rounding(distance))
    empty = ~members.any(dim=-1)
    spot = torch.arange(distance.shape[2], device=distance.device)
    needed = ((nearest[:, :, None] == spot) & ~empty[:, :, None]).any(dim=1)  # (B, n)
    # both of a pair are as far: the first goes
    step = (_STEPS * _rounding(distance)[:, 0]).clamp_min(above_zero(0.0, own))
    far = (own / step).round().masked_fill(needed, -1.0)
    worst = falling(far)
    turn = (empty.to(torch.int64).cumsum(dim=1) - 1).clamp_min(0)
    taken = worst.gather(1, turn)  # (B, k), meant for the empty ones
    nearest = torch.where(empty, taken, nearest)
    moved = (nearest[:, :, None] == spot) & empty[:, :, None]  # (B, k, n)
    assignment = torch.where(moved.any(dim=1), moved.to(torch.int64).argmax(dim=1), assignment)
    return assignment, nearest
