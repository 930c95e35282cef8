"""Shared by methods that learn which tokens to keep: DynamicViT's predictor and its mask.

Column 0 of every predictor's output is the log-probability of keeping a token.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotok.config import Options
from autotok.facts import BackboneFacts
from autotok.tokens import Tokens

from . import stochastic
from .base import Counts, Placement, Site, Training
from .learning import Learning, LossContext, TrainingRecipe
from .losses import dynamicvit_ratio
from .official_weights import OfficialWeights
from .primitives import start_layers


class LocalGlobal(nn.Module):
    """Log-probabilities (..., n, 2) of keeping and dropping tokens (..., n, C).

    A token is judged by half of its own features and by the mean of the other half over all live
    tokens.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.local = width // 2
        self.in_conv = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())
        self.out_conv = nn.Sequential(
            nn.Linear(width, width // 2),
            nn.GELU(),
            nn.Linear(width // 2, width // 4),
            nn.GELU(),
            nn.Linear(width // 4, 2),
            nn.LogSoftmax(dim=-1),
        )
        start_layers(self)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log-probabilities; `mask` (..., n) says which tokens count in the mean."""
        hidden = self.in_conv(x)
        own, shared = hidden[..., : self.local], hidden[..., self.local :]
        if mask is None:
            mean = shared.mean(dim=-2, keepdim=True)
        else:
            weights = mask.to(x.dtype).unsqueeze(-1)
            total = weights.sum(dim=-2, keepdim=True).clamp_min(0.5)  # nobody left: mean 0
            mean = (shared * weights).sum(dim=-2, keepdim=True) / total
        first = self.out_conv[0]
        assert isinstance(first, nn.Linear)
        # the first layer of both halves, the shared one once an image instead of once a token
        hidden = F.linear(own, first.weight[:, : self.local])
        hidden = hidden + F.linear(mean, first.weight[:, self.local :], first.bias)
        return self.out_conv[1:](hidden)  # type: ignore[no-any-return]


def local_global_macs(tokens: Counts, width: int, groups: int = 1) -> Counts:
    """Multiply-accumulates of `LocalGlobal` on groups of `width` channels."""
    local, half, quarter = width // 2, width // 2, width // 4
    each = width * width + local * half + half * quarter + quarter * 2
    return groups * (tokens * each + (width - local) * half)


@lru_cache(maxsize=64)
def local_global_params(width: int) -> int:
    """Parameters of one `LocalGlobal`."""
    with torch.device("meta"):
        return sum(p.numel() for p in LocalGlobal(width).parameters())


def keep_one(mask: Tensor, scores: Tensor, facts: BackboneFacts) -> Tensor:
    """The mask (B, n) with the best-scoring token kept where an image would keep nothing at all.

    Only a read-out of prefix tokens can do without patches; means and maxima need one.
    """
    if not facts.reads_patches:
        return mask
    best = F.one_hot(scores.argmax(dim=1), mask.shape[1]).to(mask.dtype)
    empty = mask.sum(dim=1, keepdim=True) < 0.5
    return torch.where(empty, best, mask)


def threshold_for(scores: Tensor, live: Tensor | None, mean_count: float) -> float:
    """The threshold that `mean_count` live tokens an image exceed on average, scores (B, n)."""
    values = scores.flatten() if live is None else scores[live]
    values = values.float().sort(descending=True).values
    count = min(max(round(mean_count * scores.shape[0]), 0), values.numel())
    if values.numel() == 0:
        return 0.0  # nobody is judged
    if count == 0:
        return float(values[0])
    if count == values.numel():
        return float(values[-1]) - 1.0
    return float((values[count - 1] + values[count]) / 2.0)


class PredictedKeep(OfficialWeights, Learning):
    """Base of DynamicViT and dTPS: a predictor per stage, a hard mask in training, and its loss."""

    placement = Placement.BEFORE
    training_need = Training.REQUIRED
    rounding = "floor"
    recipe = TrainingRecipe(backbone_lr=0.01)
    official_names = ((r"score_predictor\.(\d+)\.(.+)", r"predictor.\2"),)
    ratio_weight = 2.0

    def __init__(self, site: Site, options: Options) -> None:
        super().__init__(site, options)
        self.predictor = LocalGlobal(site.facts.blocks[site.layer].width)
        self.decision: Tensor | None = None

    def decide(self, tokens: Tokens) -> Tensor:
        """(B, n) hard mask of the tokens kept so far, sampled, with a gradient."""
        log_probs = self.predictor(tokens.patches, tokens.mask)  # (B, n, 2)
        kept = stochastic.hard_gumbel(log_probs)[..., 0]
        scores = log_probs[..., 0]
        if tokens.mask is not None:
            kept = kept * tokens.mask.to(kept.dtype)
            scores = scores.masked_fill(tokens.mask < 0.5, -torch.inf)
        self.decision = keep_one(kept, scores, self.site.facts)
        return self.decision

    def extra_loss(self, context: LossContext) -> Tensor | None:
        """This stage's share of 2 / S * sum_s mean_b (mean_i mask - ratio)^2."""
        if self.decision is None:
            return None
        ratio = self.site.num_keep / self.site.facts.num_patches
        term = dynamicvit_ratio(self.decision.float(), ratio)
        return self.ratio_weight / max(1, len(self.site.layers)) * term

    def deploy(self) -> None:
        self.decision = None

    @classmethod
    def overhead_macs(
        cls, facts: BackboneFacts, layer: int, entering: Counts, keep: Counts, options: Options
    ) -> Counts:
        return local_global_macs(entering, facts.blocks[layer].width)

    @classmethod
    def overhead_params(cls, facts: BackboneFacts, options: Options) -> int:
        return local_global_params(facts.blocks[0].width)
