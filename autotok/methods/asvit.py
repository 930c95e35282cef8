"""AS-ViT: keep what passes a learned threshold of class attention, heads weighed by loudness.

Liu, Wu, Guo, "Adaptive Sparse ViT: Towards Learnable Adaptive Token Pruning by Fully Exploiting
Self-Attention", IJCAI 2023, arXiv 2209.13802; code Cydia2018/AS-ViT.

Before a block, a patch is scored by the attention it got from the class token in the block before,
each head weighed by its share of the length of all heads' outputs at that patch. `asvit` keeps
what scores above the layer's threshold, so the number depends on the image. In training a mask
drops the others, with a sigmoid's gradient to the threshold, and the mean cost is drawn to that of
the planned counts. `asvit_batch` keeps a fixed number of best ones: the authors' form for batches,
with their count (the mean over the batch) given beforehand, so that images stay independent.

Departures: all prefix tokens are protected; where the class token is unsupervised or missing, the
mean of all rows stands in (option `score`); scores accumulate from block 0 on, where the authors
leave the first two out; the cost term compares shares of the uncompressed cost, aimed at the
nominal counts, where a fine-tune on a CPU takes the mean over each chunk of a batch (of about 2,600
tokens); starting thresholds are scaled with the number of patches. Losing every patch is allowed
where the read-out takes prefix tokens alone; elsewhere the best one stays.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from autotok.config import Options, Primitive
from autotok.facts import BackboneFacts
from autotok.tokens import Extra, Needs, Taps, Tokens

from .base import Count, Kind, Option, Placement, Site, Training
from .learning import Learning, LossContext, TrainingRecipe
from .losses import stage_costs, straight_through_mask
from .observing import Observing
from .official_weights import OfficialWeights
from .primitives import above_zero, at_least_one, select, select_ragged
from .registry import register
from .scoring import MODEL_WIDE_SCORE, score_needs, score_note
from .thresholds import Calibrated

HEARD, COUNTS = "asvit.score", "asvit.counts"
ACCUMULATE = Option(
    "accumulate",
    "last",
    "score of the last block, sum over all blocks so far, or moving average",
    choices=("last", "sum", "ema"),
    model_wide=True,
)
PATCHES = 196
STARTS = {"last": (0.001, 0.001), "sum": (0.004, 0.008), "ema": (0.001, 0.001)}
"""Published, for 196 patches: the first layer's threshold, and how much higher each next one is."""
# the authors' code, where scores of blocks are averaged
DECAY = 0.99
LEAST = torch.finfo(torch.float32).tiny  # a threshold that was found: 0 means the published start


class HeardScore(Observing):
    """What both forms share: the score, heard of the block before."""

    kind = Kind.PRUNE
    placement = Placement.BEFORE
    training_need = Training.OPTIONAL
    rounding = "floor"
    first_layer = 1  # judged by the block before
    options: ClassVar[tuple[Option, ...]] = (MODEL_WIDE_SCORE, ACCUMULATE)

    @classmethod
    def listens(
        cls, layer: int, layers: Sequence[int], facts: BackboneFacts, options: Options
    ) -> Needs:
        wanted = score_needs(cls.name, facts, options) | Needs.HEAD_OUTPUTS
        if options["accumulate"] == "last":
            return wanted if layer + 1 in layers else Needs.NONE
        return wanted if layer < max(layers) else Needs.NONE

    @classmethod
    def notes(cls, facts: BackboneFacts, options: Options) -> tuple[str, ...]:
        return (score_note(score_needs(cls.name, facts, options)),)

    def observe(self, layer: int, tokens: Tokens, taps: Taps) -> Tokens:
        prefix, how = tokens.num_prefix, self.values["accumulate"]
        needs = score_needs(self.name, self.site.facts, self.values)
        row = taps.cls_attention if needs & Needs.CLS_ATTENTION else taps.column_means
        loudness = taps.head_outputs[:, :, prefix:].norm(dim=-1)  # (B, H, n)
        # 1e-8 as in the authors' code
        share = loudness / (loudness.sum(dim=1, keepdim=True) + above_zero(1e-8, loudness))
        score = (row[:, :, prefix:] * share).sum(dim=1)  # (B, n)
        if how != "last" and HEARD in tokens.extras:
            past = tokens.extras[HEARD].values
            score = past + score if how == "sum" else DECAY * past + (1.0 - DECAY) * score
        return dataclasses.replace(tokens, extras={**tokens.extras, HEARD: Extra(score)})


@register("asvit_batch")
class ASViTBatch(HeardScore):
    """Keeps a fixed number of tokens by AS-ViT's score."""

    title = "AS-ViT, fixed count (IJCAI 2023)"

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        return select(tokens, tokens.extras[HEARD].values.topk(num_keep, dim=1).indices)


@register("asvit")
class ASViT(OfficialWeights, Learning, Calibrated, HeardScore):
    """Keeps the tokens that score above a threshold."""

    title = "AS-ViT (IJCAI 2023)"
    count = Count.ADAPTIVE
    calibrates = "threshold"
    learns_thresholds = True
    exportable = False
    options = (
        MODEL_WIDE_SCORE,
        ACCUMULATE,
        Option(
            "threshold",
            0.0,
            "score above which a patch stays; 0 is the published start",
            low=0.0,
            high=1000.0,
        ),
        Option("tau", 1e-4, "temperature of the mask's gradient", low=1e-6, high=1.0),
        Option(
            "cost_weight", 2.0, "weight of the cost term", low=0.0, high=1000.0, model_wide=True
        ),
    )
    recipe = TrainingRecipe(
        reducer_decay=0.0,
        losses={"ce": 1.0, "soft": 0.5},
        source="Cydia2018/AS-ViT: 30 epochs, 2e-5 to 2e-6 (batch 512), weight decay 1e-6",
    )

    official_names = (
        (r"keep_threshold", r"threshold"),
        (r"score_predictor\.(\d+)\.[^.]*", r"threshold"),
    )

    def __init__(self, site: Site, options: Options) -> None:
        super().__init__(site, options)
        first, step = STARTS[str(self.values["accumulate"])]
        start = (first + step * site.index) * PATCHES / site.facts.num_patches
        given = float(self.values["threshold"])
        self.threshold = nn.Parameter(torch.tensor(given if given > 0.0 else start))
        self.counts: Tensor | None = None

    @classmethod
    def overhead_params(cls, facts: BackboneFacts, options: Options) -> int:
        return 1

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        score = tokens.extras[HEARD].values  # (B, n)
        if self.training:
            return self._mask(tokens, score, num_keep)
        live = torch.ones_like(score, dtype=torch.bool) if tokens.live is None else tokens.live
        if self.calibrating:
            self._calibrate(score, live, num_keep)
        keep = live & (score > self.threshold)
        if self.site.facts.reads_patches:
            keep = at_least_one(keep, score.masked_fill(~live, -torch.inf))
        return select_ragged(tokens, keep, nominal=num_keep)

    @torch.no_grad()
    def _calibrate(self, score: Tensor, live: Tensor, num_keep: int) -> None:
        ranked = score[live].sort(descending=True).values
        count = min(num_keep * score.shape[0], ranked.numel())
        below = ranked[count] if count < ranked.numel() else ranked.new_zeros(())
        above = ranked[count - 1] if count else ranked[0]
        self.threshold.copy_((above + below) / 2.0 if count else above).clamp_(min=LEAST)

    def calibrated(self) -> dict[str, Primitive]:
        return {"threshold": self.threshold.item()}

    @torch.no_grad()
    def end_step(self) -> None:
        self.threshold.clamp_(min=LEAST)  # scores are not negative

    # --- training

    def _mask(self, tokens: Tokens, score: Tensor, num_keep: int) -> Tokens:
        """The mask of this layer alone: as published, a token may come back while training."""
        mask = straight_through_mask(score, self.threshold, tau=float(self.values["tau"]))
        if self.site.facts.reads_patches:
            best = at_least_one(mask > 0.5, score)
            mask = torch.where(best & (mask < 0.5), 1.0, mask)
        row = torch.stack([mask.sum(dim=1), torch.full_like(mask[:, 0], num_keep)], dim=1)
        rows = row.unsqueeze(1)
        if COUNTS in tokens.extras:
            rows = torch.cat([tokens.extras[COUNTS].values, rows], dim=1)
        self.counts = rows  # (B, layers so far, 2): kept, and planned
        extras = {**tokens.extras, COUNTS: Extra(rows, ())}
        return dataclasses.replace(tokens, mask=mask.to(tokens.x.dtype), extras=extras)

    def extra_loss(self, context: LossContext) -> Tensor | None:
        """2 |mean cost - planned cost|, both as shares of the uncompressed model's."""
        if self.counts is None or not self.site.is_last:
            return None
        kept, planned = stage_costs(self.site, self.counts).sum(dim=1).unbind(dim=-1)  # (B,)
        return float(self.values["cost_weight"]) * (kept.mean() - planned.mean().detach()).abs()

    def deploy(self) -> None:
        self.counts = None
