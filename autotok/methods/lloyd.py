"""Rounds of K-medoids and K-means over token sets, image by image, as matrix operations."""

from __future__ import annotations

import torch
from torch import Tensor

from .primitives import gather_rows


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
    best = torch.where(members, cost[:, None], torch.inf).argmin(dim=-1)
    return torch.where(members.any(dim=-1), best, medoids)


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
    nearest = torch.where(members, distance, torch.inf).argmin(dim=-1)  # (B, k)
    empty = ~members.any(dim=-1)
    spot = torch.arange(distance.shape[2], device=distance.device)
    needed = ((nearest[:, :, None] == spot) & ~empty[:, :, None]).any(dim=1)  # (B, n)
    worst = own.masked_fill(needed, -1.0).argsort(dim=1, descending=True)
    turn = (empty.to(torch.int64).cumsum(dim=1) - 1).clamp_min(0)
    taken = worst.gather(1, turn)  # (B, k), meant for the empty ones
    nearest = torch.where(empty, taken, nearest)
    moved = (nearest[:, :, None] == spot) & empty[:, :, None]  # (B, k, n)
    assignment = torch.where(moved.any(dim=1), moved.to(torch.int64).argmax(dim=1), assignment)
    return assignment, nearest
