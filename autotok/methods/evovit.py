"""Evo-ViT: slow tokens work, fast ones wait for the next stage, by class attention so far.

Xu, Zhang, Zhang, Sheng, Li, Dong, Zhang, Xu, Sun, "Evo-ViT: Slow-Fast Token Evolution for Dynamic
Vision Transformer", AAAI 2022, arXiv 2108.01390; code YifanXu74/Evo-ViT.

A patch's score is the class token's attention to it, summed over heads, averaged over the blocks so
far; scores of waiting patches stay as they are. A reduction layer starts a stage: everybody is put
back and the best patches go on. After the last block all are put back, and the read-out takes the
mean of the patches where `readout` says so. A training may begin layer-wise (`layerwise_share`, of
their 300 epochs 200): from the first reduction on every block is a stage of its own, which keeps
what its stage will; stage-wise training and inference follow.

Departures: the authors' second head is left out, and layer-wise training too unless asked for, as
fine-tunes are short; as in their DeiT code, nothing stands for the waiting patches. All prefix
tokens are protected; where the class token is unsupervised or missing, the mean of all rows stands
in (option `score`). The read-out defaults to the backbone's own, as its weights were trained for
that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from autotok.config import Options
from autotok.facts import BackboneFacts
from autotok.tokens import Extra, Needs, Taps, Tokens

from .base import Counts, Kind, Option, Placement, Span, Training
from .block_hooks import BlockHooks
from .learning import Learning
from .observing import Observing
from .occupancy import Occupancy
from .primitives import park, recall
from .registry import register
from .scoring import MODEL_WIDE_SCORE, score_needs, score_note

SCORES = "evovit.score"


@register("evovit")
class EvoViT(BlockHooks, Observing, Learning):
    """Parks all but the tokens that were attended to most so far."""

    title = "Evo-ViT (AAAI 2022)"
    kind = Kind.PRUNE
    placement = Placement.BEFORE
    span = Span.STAGE
    training_need = Training.OPTIONAL
    rounding = "floor"
    first_layer = 1  # judged by the blocks before
    options = (
        MODEL_WIDE_SCORE,
        Option(
            "tradeoff",
            0.5,
            "weight of a block's own attention in the average",
            low=0.0,
            high=1.0,
            search=True,
            model_wide=True,
        ),
        Option(
            "tradeoff_from",
            -1,
            "block from which attention is averaged, alone before it; -1 is the first reduction's",
            low=-1,
            high=1000,
            model_wide=True,
        ),
        Option(
            "restore", True, "put the waiting patches back before the read-out", model_wide=True
        ),
        Option(
            "readout",
            "model",
            "the backbone's own, or the mean of the patches in place of the class token",
            choices=("model", "mean"),
            model_wide=True,
        ),
        Option(
            "layerwise_share",
            0.0,
            "first share of a training in which every block is a stage of its own; above 0, blocks"
            " behind the last reduction are listened to as well",
            low=0.0,
            high=1.0,
            model_wide=True,
        ),
    )
    needs = Needs.GRID
    layerwise = False
    """This training step is layer-wise."""

    @classmethod
    def listens(
        cls, layer: int, layers: Sequence[int], facts: BackboneFacts, options: Options
    ) -> Needs:
        heard = facts.num_blocks - 1 if options["layerwise_share"] else max(layers)
        if layer >= heard:
            return Needs.NONE
        return score_needs(cls.name, facts, options)

    @classmethod
    def notes(cls, facts: BackboneFacts, options: Options) -> tuple[str, ...]:
        return (score_note(score_needs(cls.name, facts, options)),)

    @classmethod
    def occupancy(
        cls, layers: Sequence[int], counts: Counts, facts: BackboneFacts, options: Options
    ) -> Occupancy:
        found = super().occupancy(layers, counts, facts, options)
        if not options["restore"] or not layers:
            return found
        full = torch.full((len(found.readout),), facts.num_patches).numpy()
        return dataclasses.replace(found, readout=full)

    @torch.no_grad()
    def observe(self, layer: int, tokens: Tokens, taps: Taps) -> Tokens:
        needs = score_needs(self.name, self.site.facts, self.values)
        row = taps.cls_attention if needs & Needs.CLS_ATTENTION else taps.column_means
        fresh = row[:, :, tokens.num_prefix :].sum(dim=1)  # (B, n)
        place = _places(tokens)
        if SCORES in tokens.extras:
            past = tokens.extras[SCORES].values  # (B, N0), in raster order
            weight = self._tradeoff(layer)
            fresh = (1.0 - weight) * past.gather(1, place) + weight * fresh
        else:
            past = fresh.new_zeros(fresh.shape[0], self.site.facts.num_patches)
        scores = past.scatter(1, place, fresh)
        return dataclasses.replace(tokens, extras={**tokens.extras, SCORES: Extra(scores, ())})

    def _tradeoff(self, layer: int) -> float:
        start = int(self.values["tradeoff_from"])
        first = self.site.layers[0] if self.site.layers else self.site.layer
        return 1.0 if layer < (first if start < 0 else start) else float(self.values["tradeoff"])

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        tokens = _restored(tokens)
        if num_keep == tokens.num_patches:
            return tokens
        scores = tokens.extras[SCORES].values.gather(1, _places(tokens))
        order = scores.argsort(dim=1, descending=True)
        return park(tokens, order[:, :num_keep], order[:, num_keep:])

    def begin_step(self, progress: float) -> None:
        self.layerwise = progress < float(self.values["layerwise_share"])

    def after_block(self, layer: int, tokens: Tokens) -> Tokens:
        """Layer-wise, the next block of this site's stage chooses anew."""
        starts = (*self.site.layers, self.site.facts.num_blocks)
        ends = min(start for start in starts if start > self.site.layer)
        if self.training and self.layerwise and self.site.layer <= layer < ends - 1:
            return self.reduce(tokens, Taps(), self.site.num_keep)
        return tokens

    def finish(self, tokens: Tokens) -> Tokens:
        if not self.site.is_last:
            return tokens
        if self.values["restore"]:
            tokens = _restored(tokens)
        own = "mean" in self.site.facts.pooling or self.values["readout"] == "model"
        if own or tokens.num_prefix == 0:
            return tokens
        mean = tokens.patches.mean(dim=1, keepdim=True)
        return tokens.with_x(torch.cat([mean, tokens.x[:, 1:]], dim=1))


def _places(tokens: Tokens) -> Tensor:
    """(B, n) int64: raster positions of the patches."""
    assert tokens.coords is not None
    return tokens.coords[..., 0] * tokens.grid[1] + tokens.coords[..., 1]


def _restored(tokens: Tokens) -> Tokens:
    """All patches in raster order, with the scores, which are so anyway."""
    if not tokens.parked:
        return tokens
    kept = {SCORES: tokens.extras[SCORES]} if SCORES in tokens.extras else {}
    back = recall(tokens)
    return dataclasses.replace(back, extras={**back.extras, **kept})
