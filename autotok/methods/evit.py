"""EViT: keep attentive tokens, fuse the inattentive ones.

Liang, Ge, Tong, Song, Wang, Xie, "Not All Patches are What You Need: Expediting Vision Transformers
via Token Reorganizations", ICLR 2022, arXiv 2202.07800; code youweiliang/evit.

Between attention and MLP, the tokens that the class token attends to most stay, by falling score.
The others become one token, their sum weighted by that attention (not normalised), which lives on
as an ordinary token: it is scored, counted and may be dropped later.

Departures: all prefix tokens are protected, not the class token alone; where the class token is
unsupervised or missing, attention column means stand in (option `score`). `num_keep` counts the
fused token, so dropping one token only (which would fuse it into itself) is the same as dropping
none. The fused token stands at the position of the best token it holds; sizes stay untracked, as
it is a weak remnant that a size-weighted mean would overrate.

Training from scratch may let the keep rate fall (option `shrink`): it is 1 for the first eleventh
of that share of the training and then follows a cosine, as in the authors' 10 and 100 of 300
epochs. A fine-tune keeps the final rate throughout, as theirs does.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from autotok.config import Options
from autotok.facts import BackboneFacts
from autotok.tokens import Needs, Taps, Tokens

from .base import Counts, Kind, Option, Site, Training
from .learning import Learning
from .losses import keep_rate_at
from .primitives import fuse, select
from .registry import register
from .scoring import SCORE, Scoring, attention_scores


@register("evit")
class EViT(Scoring, Learning):
    """Keeps the tokens that are attended to most, and one token for the rest."""

    title = "EViT (ICLR 2022)"
    kind = Kind.HYBRID
    training_need = Training.OPTIONAL
    options: ClassVar[tuple[Option, ...]] = (
        SCORE,
        Option("fuse", True, "fold the dropped tokens into one", search=True),
        Option(
            "shrink",
            0.0,
            "share of training in which the keep rate falls to its final value",
            low=0.0,
            high=1.0,
        ),
    )
    needs = Needs.CLS_ATTENTION

    def __init__(self, site: Site, options: Options) -> None:
        super().__init__(site, options)
        self.progress = 1.0

    def begin_step(self, progress: float) -> None:
        self.progress = progress

    def _count(self, entering: int, num_keep: int) -> int:
        """Tokens to leave now: `num_keep`, or more while the keep rate of training still falls."""
        shrink = float(self.values["shrink"])
        if not self.training or self.progress >= shrink:
            return num_keep
        fused = int(bool(self.values["fuse"]))
        rate = keep_rate_at(
            self.progress,
            base=(num_keep - fused) / self.site.num_entering,
            start=shrink / 11,
            length=shrink * 10 / 11,
        )
        kept = math.ceil(rate * entering - 1e-9)
        return entering if kept >= entering else min(kept + fused, entering)

    @classmethod
    def feasible(cls, entering: int, options: Options) -> tuple[int, int]:
        return min(2 if options["fuse"] else 1, entering), entering

    @classmethod
    def overhead_macs(
        cls, facts: BackboneFacts, layer: int, entering: Counts, keep: Counts, options: Options
    ) -> Counts:
        if not options["fuse"]:
            return np.zeros_like(entering)
        return entering * facts.blocks[layer].width  # one row times all patch tokens

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        num_keep = self._count(tokens.num_patches, num_keep)
        if num_keep == tokens.num_patches:
            return tokens
        scores = attention_scores(taps, self.needs, tokens.num_prefix)  # (B, n)
        best = scores.topk(num_keep, dim=1).indices  # (B, k)
        if self.values["fuse"]:
            return fuse(tokens, best, scores)
        return select(tokens, best)
