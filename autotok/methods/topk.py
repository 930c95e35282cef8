"""Top-K pruning by class attention.

Haurum, Escalera, Taylor, Moeslund, "Which Tokens to Use? Investigating Token Reduction in Vision
Transformers", ICCV Workshops 2023, arXiv 2308.04657 (their baseline, EViT without the fused token).

Between attention and MLP, patch tokens are ranked by the attention the class token pays them in
that block (mean over heads); the best K stay, by falling score. K counts from the image's initial
tokens.

Departures: all prefix tokens are protected, not the class token alone; where the class token is
unsupervised or missing, attention column means stand in (option `score`); any grid, where the
authors' code fixes 14 x 14.
"""

from __future__ import annotations

from autotok.tokens import Needs, Taps, Tokens

from .base import Kind, Training
from .primitives import select
from .registry import register
from .scoring import SCORE, Scoring, attention_scores


@register("topk")
class TopK(Scoring):
    """Keeps the tokens that are attended to most."""

    title = "Top-K (ICCVW 2023)"
    kind = Kind.PRUNE
    training_need = Training.OPTIONAL
    options = (SCORE,)
    rounding = "floor"
    needs = Needs.CLS_ATTENTION

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        scores = attention_scores(taps, self.needs, tokens.num_prefix)  # (B, n)
        return select(tokens, scores.topk(num_keep, dim=1).indices)
