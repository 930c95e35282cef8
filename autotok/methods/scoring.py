"""Whose attention judges a patch token: the class token's row, or the mean of all rows.

A class token that never reached the loss (AutoFormer averages patch tokens) is a poor judge, and
some models have none. `score: auto` takes the class row where it is supervised and column means
elsewhere; results record which it was.
"""

from __future__ import annotations

import dataclasses

from torch import Tensor

from autotok.config import Options
from autotok.errors import IncompatibleMethod
from autotok.facts import BackboneFacts
from autotok.tokens import Needs, Taps

from .base import Option, TokenReducer

SCORE = Option(
    "score",
    "auto",
    "whose attention judges: the class token's, or the mean of all tokens'; auto takes the class"
    " token's where it is supervised",
    choices=("auto", "cls", "column"),
)

MODEL_WIDE_SCORE = dataclasses.replace(SCORE, model_wide=True)
"""For methods that hear all blocks in one place."""


def score_needs(method: str, facts: BackboneFacts, options: Options) -> Needs:
    """CLS_ATTENTION or COLUMN_MEANS, whichever option `score` means on this backbone.

    Raises:
        IncompatibleMethod: class attention was asked for and there is no class token.
    """
    asked = options["score"]
    if asked == "cls" and not facts.has_cls:
        raise IncompatibleMethod(
            f"option 'score' of method '{method}' is 'cls', which needs a class token, and backbone"
            f" '{facts.name}' has none; use 'column' or 'auto'"
        )
    if asked == "cls" or (asked == "auto" and facts.has_cls and facts.cls_is_supervised):
        return Needs.CLS_ATTENTION
    return Needs.COLUMN_MEANS


def attention_scores(taps: Taps, needs: Needs, num_prefix: int) -> Tensor:
    """(B, n): attention each patch token receives, mean over heads."""
    row = taps.cls_attention if needs & Needs.CLS_ATTENTION else taps.column_means
    return row[:, :, num_prefix:].mean(dim=1)


def score_note(needs: Needs) -> str:
    """Which score was used, for the record."""
    if needs & Needs.CLS_ATTENTION:
        return "score: class-token attention"
    return "score: attention column means (mean over all query rows)"


class Scoring(TokenReducer):
    """A reducer with the option `SCORE`: it asks for those weights, and its results say which."""

    needs = Needs.CLS_ATTENTION

    @classmethod
    def resolve_needs(cls, facts: BackboneFacts, options: Options) -> Needs:
        return score_needs(cls.name, facts, options) | (cls.needs & ~Needs.CLS_ATTENTION)

    @classmethod
    def notes(cls, facts: BackboneFacts, options: Options) -> tuple[str, ...]:
        return (score_note(score_needs(cls.name, facts, options)),)
