"""Bipartite matching, the shared mathematics of ToMe and its relatives: who merges into whom.

Functions on patch tokens; prefix tokens are protected by never being handed in. The output
order is part of the algorithm, because it decides the next layer's split.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from autotok.config import Options
from autotok.facts import BackboneFacts
from autotok.tokens import Taps

from .base import Counts, TokenReducer


@dataclass(frozen=True)
class Match:
    """One reduction of n patch tokens: k survivors and r tokens folded into them."""

    keep: Tensor
    """(B, k), survivors in output order."""
    gone: Tensor
    """(B, r), the tokens that merge away."""
    target: Tensor
    """(B, r), the output position each of them goes to."""


@dataclass(frozen=True)
class Pairs:
    """A `Match` of even tokens with odd ones, said by positions within the two halves.

    Survivors are the even tokens that stay, then the whole odd half, in its order.
    """

    count: int
    """Patch tokens n."""
    first: int
    """Patch position of the first even token, 0 or 1."""
    removed: int
    """How many even tokens merge away, r."""
    order: Tensor
    """(B, |even|), even tokens by falling similarity: the first r go."""
    nearest: Tensor
    """(B, |even|), the odd token each even one is most similar to."""
    sorted: bool
    """Whether the even tokens that stay go back to ascending position."""

    @property
    def gone_even(self) -> Tensor:
        """(B, r), which even tokens merge away."""
        return self.order[:, : self.removed]

    @property
    def stay_even(self) -> Tensor:
        """(B, |even| - r), which even tokens stay, in output order."""
        stay = self.order[:, self.removed :]
        return stay.sort(dim=1).values if self.sorted else stay

    @property
    def partner(self) -> Tensor:
        """(B, r), the odd token each of the gone goes to."""
        return self.nearest.gather(1, self.gone_even)

    @property
    def keep(self) -> Tensor:
        """(B, k), survivors in output order: even ones that stay, then all odd ones."""
        stay = 2 * self.stay_even + self.first
        odd = torch.arange(1 - self.first, self.count, 2, device=stay.device)
        return torch.cat([stay, odd.expand(stay.shape[0], -1)], dim=1)

    @property
    def gone(self) -> Tensor:
        """(B, r), the tokens that merge away."""
        return 2 * self.gone_even + self.first

    @property
    def target(self) -> Tensor:
        """(B, r), the output position each of them goes to."""
        return self.partner + (self.order.shape[1] - self.removed)


def key_direction(taps: Taps, num_prefix: int) -> Tensor:
    """(B, n, D): the direction of each patch token's mean key, as the sum over heads."""
    return taps.keys.sum(dim=1)[:, num_prefix:]


def unit_rows(metric: Tensor) -> Tensor:
    """`metric` (B, n, D) with rows of length 1; rows of zeros become NaN, and match like any."""
    length: Tensor = torch.linalg.vector_norm(metric, dim=-1, keepdim=True)
    return metric / length


def by_similarity(similarity: Tensor) -> tuple[Tensor, Tensor]:
    """Rows by falling similarity to their most similar column, and that column of each row.

    `similarity` is (B, |A|, |B|); both results are (B, |A|), the second in the rows' own order.
    """
    value, nearest = similarity.max(dim=-1)
    return value.argsort(dim=-1, descending=True), nearest


def bipartite(metric: Tensor, num_removed: int, *, num_prefix: int) -> Pairs:
    """ToMe's bipartite soft matching of patch tokens by the cosine of `metric` (B, n, D).

    Tokens on even positions of the whole sequence, prefix included, may merge into those on odd
    ones. Output order: the unmerged even ones, then all odd ones. With prefix tokens the unmerged
    go back to ascending position; without any they stay by falling similarity, as the authors'
    code does.
    """
    first = num_prefix % 2
    unit = unit_rows(metric.detach())
    even, odd = unit[:, first::2], unit[:, 1 - first :: 2]
    order, nearest = by_similarity(torch.bmm(even, odd.transpose(1, 2)))
    return Pairs(metric.shape[1], first, num_removed, order, nearest, sorted=num_prefix > 0)


class Matching(TokenReducer):
    """A reducer that merges by `bipartite` over `key_direction`: one half of the tokens at most."""

    @classmethod
    def feasible(cls, entering: int, options: Options) -> tuple[int, int]:
        return entering - entering // 2, entering

    @classmethod
    def overhead_macs(
        cls, facts: BackboneFacts, layer: int, entering: Counts, keep: Counts, options: Options
    ) -> Counts:
        half = entering // 2
        return half * (entering - half) * facts.blocks[layer].head_dim  # similarities
