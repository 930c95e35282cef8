"""TPS: prune tokens and squeeze what they held into the most similar kept ones.

Wei, Ye, Zhang, Tang, Liao, "Joint Token Pruning and Squeezing Towards More Aggressive Compression
of Vision Transformers", CVPR 2023, arXiv 2304.10716; code megvii-research/TPS-CVPR2023.

Tokens are split into kept and pruned; each pruned one joins the kept one it is most similar to
(cosine c), which becomes the mean of itself and its guests under weights e and exp(c / T). Sizes
are not tracked. `dtps` splits in front of a block by DynamicViT's predictor (masks in training,
a fixed count at inference); `etps` splits between attention and MLP by class attention, as EViT.

Departures: all prefix tokens are protected; of several equally similar kept tokens the first takes
the guest (the authors' code gives it to all of them). The block of `etps` was never released: its
score, place and rounding follow the paper's words and the authors' remarks.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor
from torch.nn import functional as F

from autotok.config import Options
from autotok.facts import BackboneFacts
from autotok.tokens import Needs, Taps, Tokens

from .base import Counts, Kind, Option, Training
from .learning import TrainingRecipe
from .merging import merge
from .predictors import PredictedKeep, local_global_macs
from .primitives import gather_rows
from .registry import register
from .scoring import SCORE, Scoring, attention_scores

TEMPERATURE = Option(
    "temperature", 1.0, "divides the similarity of a squeezed token", low=0.01, high=100.0, log=True
)
# the authors add it to the length, where `F.normalize` takes the larger of the two
EPSILON = 1e-6


def squeeze(tokens: Tokens, scores: Tensor, num_keep: int, temperature: float) -> Tokens:
    """The `num_keep` best by `scores` (B, n), by falling score, with the others folded in."""
    order = scores.argsort(dim=1, descending=True)
    keep, gone = order[:, :num_keep], order[:, num_keep:]
    unit = _unit(tokens.patches)
    near = gather_rows(unit, gone) @ gather_rows(unit, keep).transpose(1, 2)  # (B, r, k)
    cosine, target = near.max(dim=2)
    taken = target.unsqueeze(2) == torch.arange(num_keep, device=target.device)  # (B, r, k)
    most = _greatest(near / temperature, taken)  # (B, k)
    weights = torch.empty_like(scores).scatter(1, keep, (1.0 - most).exp().to(scores.dtype))
    given = (cosine / temperature - most.gather(1, target)).exp()
    weights = weights.scatter(1, gone, given.to(scores.dtype))
    return merge(tokens, keep=keep, gone=gone, target=target, weights=weights, track_size=False)


def squeeze_masked(x: Tensor, before: Tensor, after: Tensor, temperature: float) -> Tensor:
    """Patches (B, n, C) with those dropped between two masks (B, n) folded into the kept ones.

    Rows of dropped tokens are left as they were; both masks get a gradient.
    """
    unit = _unit(x)
    cosine = unit @ unit.transpose(1, 2)  # (B, dropped, kept)
    kept = after.unsqueeze(1)
    nearest = cosine.detach().masked_fill(kept < 0.5, -torch.inf).argmax(dim=2)
    one = F.one_hot(nearest, x.shape[1])
    chosen = one.to(x.dtype) * kept * (before - after).unsqueeze(2)
    going = (before - after).unsqueeze(2) > 0.5
    most = _greatest(cosine / temperature, going & (one > 0))  # (B, kept)
    # of tokens that stay, which weigh nothing, it may be large: it must not be infinite
    limit = math.log(torch.finfo(cosine.dtype).max) / 2.0
    exponent = (cosine / temperature - most.unsqueeze(1)).clamp_max(limit)
    weights, own = chosen * exponent.exp(), (1.0 - most).exp()
    total = own + weights.sum(dim=1)
    folded: Tensor = (own / total).unsqueeze(-1) * x
    return folded + (weights / total.unsqueeze(1)).transpose(1, 2) @ x


def _greatest(exponents: Tensor, taken: Tensor) -> Tensor:
    """(B, k): the greatest exponent of the weights that meet in a token, its own 1 and those of
    `exponents` (B, r, k) that it has `taken`. Less this, none is too large, and ratios are kept."""
    found = exponents.detach().masked_fill(~taken, 1.0)
    return F.pad(found, (0, 0, 0, 1), value=1.0).amax(dim=1).clamp_min(1.0)


def _unit(x: Tensor) -> Tensor:
    length: Tensor = x.norm(dim=-1, keepdim=True)
    return x / (length + EPSILON)


def _squeeze_macs(facts: BackboneFacts, layer: int, entering: Counts, keep: Counts) -> Counts:
    return (entering - keep) * keep * facts.blocks[layer].width


@register("dtps")
class DTPS(PredictedKeep):
    """Keeps the tokens a learned predictor chooses; the others are squeezed into them."""

    title = "dTPS (CVPR 2023)"
    kind = Kind.HYBRID
    options = (TEMPERATURE,)
    recipe = TrainingRecipe(
        backbone_lr=0.01,
        losses={"ce": 1.0, "soft": 0.5, "tokens": 0.5},
        source="30 epochs, predictors at 2.5e-4, backbone at a hundredth of it",
    )

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        temperature = float(self.values["temperature"])
        if not self.training:
            scores = self.predictor(tokens.patches)[..., 0]  # (B, n)
            return squeeze(tokens, scores, num_keep, temperature)
        after = self.decide(tokens)
        before = torch.ones_like(after) if tokens.mask is None else tokens.mask
        patches = squeeze_masked(tokens.patches, before, after, temperature)
        x = torch.cat([tokens.prefix, patches], dim=1)
        return dataclasses.replace(tokens, x=x, mask=after)

    @classmethod
    def overhead_macs(
        cls, facts: BackboneFacts, layer: int, entering: Counts, keep: Counts, options: Options
    ) -> Counts:
        predictor = local_global_macs(entering, facts.blocks[layer].width)
        return predictor + _squeeze_macs(facts, layer, entering, keep)


@register("etps")
class ETPS(Scoring):
    """Keeps the tokens attended to most; the others are squeezed into them."""

    title = "eTPS (CVPR 2023)"
    kind = Kind.HYBRID
    training_need = Training.OPTIONAL
    options = (SCORE, TEMPERATURE)
    needs = Needs.CLS_ATTENTION

    @classmethod
    def overhead_macs(
        cls, facts: BackboneFacts, layer: int, entering: Counts, keep: Counts, options: Options
    ) -> Counts:
        return _squeeze_macs(facts, layer, entering, keep)

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        scores = attention_scores(taps, self.needs, tokens.num_prefix)  # (B, n)
        return squeeze(tokens, scores, num_keep, float(self.values["temperature"]))
