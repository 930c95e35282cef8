"""Bipartite matching, the shared mathematics of ToMe and its relatives: who merges into whom.

Pure functions on patch tokens; prefix tokens are protected by never being handed in. The output
order is part of the algorithm, because it decides the next layer's split.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Match", "bipartite", "match_pairs"]


@dataclass(frozen=True)
class Match:
    """One reduction of n patch tokens: k survivors and r tokens folded into them."""

    keep: Tensor
    """(B, k), survivors in output order."""
    gone: Tensor
    """(B, r), the tokens that merge away."""
    target: Tensor
    """(B, r), the output position each of them goes to."""


def match_pairs(similarity: Tensor, num_removed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pair rows with their most similar column and pick the `num_removed` closest pairs.

    `similarity` is (B, |A|, |B|). Returns the rows that go (B, r), the column each goes to (B, r),
    and the rows that stay (B, |A| - r), both lists by falling similarity.
    """
    value, partner = similarity.max(dim=-1)
    order = value.argsort(dim=-1, descending=True)
    gone = order[:, :num_removed]
    return gone, partner.gather(1, gone), order[:, num_removed:]


@torch.no_grad()
def bipartite(metric: Tensor, num_removed: int, *, num_prefix: int) -> Match:
    """ToMe's bipartite soft matching of patch tokens by the cosine of `metric` (B, n, D).

    Tokens on even positions of the whole sequence, prefix included, may merge into those on odd
    ones. Output order: the unmerged even ones, then all odd ones. With prefix tokens the unmerged
    go back to ascending position; without any they stay by falling similarity, as the authors'
    code does.
    """
    first = num_prefix % 2
    unit = F.normalize(metric, dim=-1)
    even, odd = unit[:, first::2], unit[:, 1 - first :: 2]
    gone, partner, stay = match_pairs(even @ odd.transpose(-2, -1), num_removed)
    if num_prefix:
        stay = stay.sort(dim=-1).values
    others = torch.arange(1 - first, metric.shape[1], 2, device=metric.device)
    keep = torch.cat([2 * stay + first, others.expand(stay.shape[0], -1)], dim=1)
    return Match(keep, 2 * gone + first, partner + stay.shape[1])
