"""DTEM: learn the features that tokens are matched by.

Lee, Hong, "Learning to Merge Tokens via Decoupled Embedding for Efficient Vision Transformers",
NeurIPS 2024, arXiv 2412.10569; code movinghoon/DTEM.

ToMe with a metric of its own: a linear map of what the block's attention reads. In inference the
matching and the size-weighted mean are ToMe's. In training nothing is removed: each token of one
set gives shares of itself to its most similar ones of the other, by a soft choice of the r closest
pairs, and tokens are sorted by the size that is left to them, so that the absorbed ones sink to
where later layers do not merge them. Attention multiplies by these sizes.

Departures: any number of prefix tokens, none of which takes part; the metric is computed for patch
tokens alone. The authors' recipe (frozen backbone) leaves the metric of a reduction behind the last
attention untrained where the class token alone is read.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from autotok.config import Options
from autotok.facts import BackboneFacts
from autotok.tokens import Needs, Taps, Tokens

from .base import Counts, Kind, Option, Site, Training
from .learning import Learning, TrainingRecipe
from .matching import Matching, bipartite
from .merging import merge_pairs
from .official_weights import OfficialWeights
from .primitives import select
from .registry import register


@register("dtem")
class DTEM(Matching, OfficialWeights, Learning):
    """Merges tokens that a learned metric finds similar."""

    title = "DTEM (NeurIPS 2024)"
    kind = Kind.MERGE
    halves_r = True
    training_need = Training.REQUIRED
    options = (
        Option(
            "features",
            0,
            "width of the metric; 0 is one head's, twice that from 1024 channels",
            low=0,
            high=4096,
        ),
        Option("partners", 3, "partners a token may give itself to in training", low=1, high=64),
        Option("pair_temperature", 0.1, "of the similarities in training", low=0.001, high=10.0),
        Option(
            "choice_temperature", 0.1, "of the choice of pairs in training", low=0.001, high=10.0
        ),
    )
    conserves_size = True
    official_by_block = True
    needs = Needs.NORMED
    proportional_attention = True
    recipe = TrainingRecipe(
        reducer_lr=1.0,
        backbone_lr=0.0,
        reducer_decay=1e-4,
        losses={"ce": 1.0},
        source="movinghoon/DTEM: metric only, AdamW, lr 1e-4 to 1e-6, 30 epochs",
    )

    official_names = ((r"blocks\.(\d+)\.attn\.metric\.([^.]+)", r"metric.\2"),)

    def __init__(self, site: Site, options: Options) -> None:
        super().__init__(site, options)
        width = site.facts.blocks[site.layer].width
        self.metric = nn.Linear(width, _features(site.facts, site.layer, options))

    @classmethod
    def overhead_macs(
        cls, facts: BackboneFacts, layer: int, entering: Counts, keep: Counts, options: Options
    ) -> Counts:
        features, half = _features(facts, layer, options), entering // 2
        macs: Counts = half * (entering - half) * features  # similarities
        return macs + entering * facts.blocks[layer].width * features

    @classmethod
    def overhead_params(cls, facts: BackboneFacts, options: Options) -> int:
        return (facts.blocks[0].width + 1) * _features(facts, 0, options)

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        prefix = tokens.num_prefix
        metric = self.metric(taps.normed[:, prefix:].detach())  # (B, n, features)
        if self.training:
            with torch.autocast(metric.device.type, enabled=False):  # sizes need full precision
                return self._soften(tokens, metric)
        pairs = bipartite(metric, tokens.num_patches - num_keep, num_prefix=prefix)
        return merge_pairs(tokens, pairs)

    def _soften(self, tokens: Tokens, metric: Tensor) -> Tokens:
        """All tokens, after giving away shares of `num_entering - num_keep` of them."""
        alive, removed = self.site.num_entering, self.site.num_entering - self.site.num_keep
        metric = metric[:, :alive].to(torch.promote_types(metric.dtype, torch.float32))
        unit = metric / metric.norm(dim=-1, keepdim=True)
        share = soft_pairs(
            unit[:, 0::2] @ unit[:, 1::2].transpose(-2, -1),
            removed,
            partners=int(self.values["partners"]),
            pair_temperature=float(self.values["pair_temperature"]),
            choice_temperature=float(self.values["choice_temperature"]),
        )  # (B, |a|, |b|)
        size, patches = tokens.sizes(), tokens.patches
        s_a, s_b = size[:, 0:alive:2], size[:, 1:alive:2]
        x_a, x_b = patches[:, 0:alive:2], patches[:, 1:alive:2]
        given = share.transpose(-2, -1)  # (B, |b|, |a|)
        gained = (given @ s_a.unsqueeze(-1)).squeeze(-1)
        s_new = s_b + gained
        x_new = x_b * s_b.unsqueeze(-1) + given @ (x_a * s_a.unsqueeze(-1))
        x_new = x_new / s_new.unsqueeze(-1)
        left = s_a * _unit_range(1.0 - share.sum(dim=-1))
        x = torch.cat([tokens.prefix, x_a, x_new, patches[:, alive:]], dim=1)
        size = torch.cat([left, s_new, size[:, alive:]], dim=1)
        order = torch.cat(
            [size[:, :alive].argsort(dim=-1, descending=True), _rest(size, alive)], dim=1
        )
        mixed = _interleaved(tokens, alive)  # the other facts, in the order of x and size
        return select(dataclasses.replace(mixed, x=x, size=size), order)


def soft_pairs(
    similarity: Tensor,
    num_removed: int,
    *,
    partners: int,
    pair_temperature: float,
    choice_temperature: float,
) -> Tensor:
    """Shares (B, |a|, |b|) that each row gives to each column: a soft choice of the closest pairs.

    Rows keep their `partners` best columns. Then `num_removed` times one pair is chosen by softmax
    over all of them, and rows count less the more they have been chosen. No row gives more than all
    of itself.
    """
    similarity = similarity.to(torch.promote_types(similarity.dtype, torch.float32))
    best, index = similarity.topk(min(partners, similarity.shape[-1]), dim=-1)  # (B, |a|, k)
    scores = best / pair_temperature
    tiny = torch.finfo(scores.dtype).eps
    total = torch.zeros_like(scores)
    for _ in range(num_removed):
        chosen = (scores / choice_temperature).flatten(1).softmax(dim=-1).view_as(scores)
        total = total + chosen
        left = (1.0 - chosen.sum(dim=-1, keepdim=True)).clamp_min(tiny)
        scores = scores + left.log()
    row = total.sum(dim=-1, keepdim=True).detach()
    total = total / row.clamp_min(1.0)
    return torch.zeros_like(similarity).scatter(2, index, total)


def _features(facts: BackboneFacts, layer: int, options: Options) -> int:
    block = facts.blocks[layer]
    return int(options["features"]) or block.head_dim * (2 if block.width >= 1024 else 1)


def _unit_range(values: Tensor) -> Tensor:
    """Values clipped to [0, 1], with the gradient of the unclipped."""
    return values + (values.clamp(0.0, 1.0) - values).detach()


def _rest(size: Tensor, alive: int) -> Tensor:
    """(B, n - alive), the positions that take no part."""
    return torch.arange(alive, size.shape[1], device=size.device).expand(size.shape[0], -1)


def _interleaved(tokens: Tokens, alive: int) -> Tokens:
    """The tokens with both sets behind one another: even positions, odd ones, then the rest."""
    count = tokens.num_patches
    line = torch.arange(count, device=tokens.x.device)
    order = torch.cat([line[0:alive:2], line[1:alive:2], line[alive:]])
    return select(tokens, order.expand(tokens.x.shape[0], -1))
