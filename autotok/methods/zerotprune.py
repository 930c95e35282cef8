"""Zero-TPrune: rank tokens by a walk on the attention graph, prune the low and the alike.

Wang, Dedhia, Jha, "Zero-TPrune: Zero-Shot Token Pruning through Leveraging of the Attention Graph
in Pre-Trained Transformers", CVPR 2024, arXiv 2305.17328. No code was published: this is a design
sketch from a summary of the paper, checked against no reference.

Importance is a weighted page rank: every token starts alike and hands its score on along its row of
the attention map, head by head; heads count by root mean square, and those whose scores spread too
little or too much (variance of scores with mean 1) are left out. One such step splits the tokens
into a less important half, the candidates, and a more important one. The candidates most similar to
a more important token (cosine of mean keys) go. The long walk over what is left then drops the
least important ones.

Published are 30 to 50 steps at the first reduction layer, 5 to 10 in the middle, 1 late: give
`iterations` layer by layer. Departures, all for want of detail: `alike_share` of what goes is
dropped for similarity; maps are cut to the tokens left and their rows made to sum to 1 again before
the long walk; similarity uses keys averaged over heads; if every head were left out, all count. All
prefix tokens are protected and take part in the walk. It acts between attention and MLP.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from autotok.config import Options
from autotok.facts import BackboneFacts
from autotok.tokens import Needs, Taps, Tokens

from .base import Counts, Kind, Option, TokenReducer
from .primitives import above_zero, directions, gather_rows, select
from .registry import register

# published: heads whose scores vary less or more have no voice
LEAST_SPREAD, GREATEST_SPREAD = 0.01, 0.7


@register("zerotprune")
class ZeroTPrune(TokenReducer):
    """Drops tokens that the attention graph leads to least, and those another one stands for."""

    title = "Zero-TPrune (CVPR 2024), sketch"
    kind = Kind.PRUNE
    options = (
        Option(
            "alike_share",
            0.3,
            "share of the dropped that goes for similarity",
            low=0.0,
            high=1.0,
            search=True,
        ),
        Option("iterations", 8, "steps of the long walk", low=1, high=100),
    )
    needs = Needs.ATTENTION | Needs.KEYS

    @classmethod
    def overhead_macs(
        cls, facts: BackboneFacts, layer: int, entering: Counts, keep: Counts, options: Options
    ) -> Counts:
        block, half = facts.blocks[layer], entering // 2
        alike, rows = _alike(entering, keep, options), entering + facts.num_prefix
        look = half * (entering - half) * block.head_dim + block.heads * rows * rows
        walk = int(options["iterations"]) * block.heads * (rows - alike) ** 2
        return walk + np.where(alike > 0, look, 0)

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        return select(tokens, self._kept(taps, tokens.num_prefix, num_keep))

    @torch.no_grad()
    def _kept(self, taps: Taps, prefix: int, num_keep: int) -> Tensor:
        """(B, k): patches that stay, by falling importance."""
        count = taps.attention.shape[-1] - prefix
        number = min(int(_asked(count - num_keep, self.values)), count // 2)
        left = torch.arange(count, device=taps.attention.device)
        left = left.expand(taps.attention.shape[0], -1)
        walked = taps.attention
        if number:
            first = _importance(walked, 1)[:, prefix:]
            left = _without_alike(first, taps.mean_keys[:, prefix:], number)
            rows = F.pad(left + prefix, (prefix, 0))
            rows[:, :prefix] = torch.arange(prefix, device=rows.device)
            walked = gather_rows(gather_rows(walked, rows, 2), rows, 3)
            rest = walked.sum(dim=-1, keepdim=True)
            walked = walked / rest.clamp_min(above_zero(1e-12, rest))
        importance = _importance(walked, int(self.values["iterations"]))[:, prefix:]
        return left.gather(1, importance.topk(num_keep, dim=1).indices)


def _alike(entering: Counts, keep: Counts, options: Options) -> Counts:
    """Tokens that go for similarity: their share, and no more than there are candidates."""
    asked = _asked(entering - keep, options).astype(np.int64)
    number: Counts = np.minimum(asked, entering // 2)
    return number


def _asked(dropped: Any, options: Options) -> Any:
    """The share of one number (no array: torch.compile), or of an array of them."""
    return (float(options["alike_share"]) * dropped + 1e-9) // 1


def _importance(attention: Tensor, steps: int) -> Tensor:
    """(B, N): scores of mean 1 after a walk of some steps on maps (B, H, N, N)."""
    score = torch.ones_like(attention[:, :, :1])  # (B, H, 1, N)
    for _ in range(steps):
        score = score @ attention
    score = score.squeeze(2)
    spread = score.var(dim=-1, keepdim=True, correction=0)  # (B, H, 1)
    used = ((spread >= LEAST_SPREAD) & (spread <= GREATEST_SPREAD)).to(score.dtype)
    used = torch.where(used.any(dim=1, keepdim=True), used, torch.ones_like(used))
    return ((score.square() * used).sum(dim=1) / used.sum(dim=1)).sqrt()


def _without_alike(importance: Tensor, keys: Tensor, number: int) -> Tensor:
    """(B, n - number): patches left, in rising order of position."""
    half = importance.shape[1] // 2
    order = importance.argsort(dim=1)
    candidates, others = order[:, :half], order[:, half:]
    unit = directions(keys)
    similarity = gather_rows(unit, candidates) @ gather_rows(unit, others).transpose(-2, -1)
    alike = similarity.amax(dim=-1).argsort(dim=1, descending=True)
    stay = candidates.gather(1, alike[:, number:])
    return torch.cat([others, stay], dim=1).sort(dim=1).values
