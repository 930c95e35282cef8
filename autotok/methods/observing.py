"""`Observing`: for methods that follow the attention of blocks where they reduce nothing."""

from __future__ import annotations

from collections.abc import Sequence

from autotok.config import Options
from autotok.facts import BackboneFacts
from autotok.tokens import Needs, Taps, Tokens

from .base import TokenReducer


class Observing(TokenReducer):
    """A reducer that is shown the attention of further blocks."""

    @classmethod
    def listens(
        cls, layer: int, layers: Sequence[int], facts: BackboneFacts, options: Options
    ) -> Needs:
        """Taps wanted of block `layer`'s attention for `observe`, given all reduction layers."""
        raise NotImplementedError

    def observe(self, layer: int, tokens: Tokens, taps: Taps) -> Tokens:
        """Called behind the attention of every block that `listens` wants; the first site only."""
        raise NotImplementedError


def observed_needs(
    method: type[TokenReducer], layers: Sequence[int], facts: BackboneFacts, options: Options
) -> dict[int, Needs]:
    """Blocks whose attention a method wants to be shown, and which taps of it."""
    if not issubclass(method, Observing) or not layers:
        return {}
    wanted = {
        layer: method.listens(layer, layers, facts, options) for layer in range(facts.num_blocks)
    }
    return {layer: needs for layer, needs in wanted.items() if needs}
