"""No reduction: the uncompressed model, as a method.

It lets the uncompressed model take part in a search and in comparisons like any other candidate.
Reduction layers are refused, because nothing would happen in them.
"""

from __future__ import annotations

from autotok.config import Options
from autotok.tokens import Taps, Tokens

from .base import Kind, TokenReducer
from .registry import register


@register("none")
class Nothing(TokenReducer):
    """Keeps every token."""

    title = "no compression"
    kind = Kind.NONE

    @classmethod
    def feasible(cls, entering: int, options: Options) -> tuple[int, int]:
        return entering, entering

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        return tokens
