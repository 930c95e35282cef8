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
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from autotok.config import Primitive
from autotok.facts import BackboneFacts
from autotok.tokens import Needs, Taps, Tokens

from .base import Counts, Kind, Option, TokenReducer, Training
from .primitives import fuse, select
from .registry import register
from .scoring import SCORE, attention_scores, score_needs, score_note

__all__ = ["EViT"]


@register("evit")
class EViT(TokenReducer):
    """Keeps the tokens that are attended to most, and one token for the rest."""

    title = "EViT (ICLR 2022)"
    kind = Kind.HYBRID
    training_need = Training.OPTIONAL
    options = (SCORE, Option("fuse", True, "fold the dropped tokens into one", search=True))
    needs = Needs.CLS_ATTENTION

    @classmethod
    def feasible(cls, entering: int, options: Mapping[str, Primitive]) -> tuple[int, int]:
        return min(2 if options["fuse"] else 1, entering), entering

    @classmethod
    def resolve_needs(cls, facts: BackboneFacts, options: Mapping[str, Primitive]) -> Needs:
        return score_needs(cls.name, facts, options)

    @classmethod
    def overhead_macs(
        cls,
        facts: BackboneFacts,
        layer: int,
        entering: Counts,
        keep: Counts,
        options: Mapping[str, Primitive],
    ) -> Counts:
        if not options["fuse"]:
            return np.zeros_like(entering)
        return entering * facts.blocks[layer].width  # one row times all patch tokens

    @classmethod
    def notes(cls, facts: BackboneFacts, options: Mapping[str, Primitive]) -> tuple[str, ...]:
        return (score_note(score_needs(cls.name, facts, options)),)

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        scores = attention_scores(taps, self.needs, tokens.num_prefix)  # (B, n)
        best = scores.topk(num_keep, dim=1).indices  # (B, k)
        if self.values["fuse"]:
            return fuse(tokens, best, scores)
        return select(tokens, best)
