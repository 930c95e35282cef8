"""`BlockHooks`: for methods that act at other moments than their reduction layers."""

from __future__ import annotations

from typing import ClassVar

from autotok.tokens import Taps, Tokens

from .base import TokenReducer


class BlockHooks(TokenReducer):
    """A reducer that the block loop also calls around the blocks; each hook does nothing here."""

    acts_early: ClassVar[bool] = True
    """Changes tokens, in evaluation too, before its first reduction layer."""

    def before_blocks(self, tokens: Tokens, taps: Taps) -> Tokens:
        """Called once after the embedding, whatever the placement."""
        return tokens

    def after_block(self, layer: int, tokens: Tokens) -> Tokens:
        """Called after every block."""
        return tokens

    def before_last(self, tokens: Tokens) -> Tokens:
        """Called before the last block (Cropr puts its tokens back there)."""
        return tokens

    def finish(self, tokens: Tokens) -> Tokens:
        """Called before the read-out."""
        return tokens
