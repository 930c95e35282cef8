"""`TwoPass`: for methods that run the blocks twice, and the second time only where it is needed.

A first pass answers every image. Where the method is not sure of that answer, a second one runs on
tokens that it makes from the image and what the first pass found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from autotok.config import Options
from autotok.facts import BackboneFacts
from autotok.tokens import Needs, StemParts, Taps, Tokens

from .base import TokenReducer

Thinned = Callable[[int, Tensor], Tensor]
"""What is done to a branch (B, N, C) of a block before it is added: stochastic depth."""


class Passes(Protocol):
    """What a method is given to run its first pass with: the backbone's own steps."""

    @property
    def facts(self) -> BackboneFacts: ...

    def stem_parts(self) -> StemParts: ...

    def attend(self, index: int, tokens: Tokens, needs: Needs = ...) -> tuple[Tensor, Taps]: ...

    def feed(self, index: int, tokens: Tokens) -> Tensor: ...

    def readout(self, tokens: Tokens) -> Tensor: ...


@dataclass(frozen=True)
class FirstPass:
    """What the first pass found, of images (B, ...)."""

    logits: Tensor
    """(B, classes)."""
    tokens: Tokens
    """As they reached the read-out."""
    embedded: Tensor
    """(B, P + n, C), what entered, positions included."""
    score: Tensor
    """(B, n), what each patch token is worth a second look."""

    def of(self, images: Tensor) -> FirstPass:
        """That of some images alone, by their indices."""
        kept = self.tokens.with_x(self.tokens.x[images])
        return FirstPass(self.logits[images], kept, self.embedded[images], self.score[images])


class TwoPass(TokenReducer):
    """A reducer that is given the backbone for a first pass; `reduce` has nothing left to do."""

    def first_pass(self, backbone: Passes, images: Tensor, thinned: Thinned) -> FirstPass:
        """The answer to images (B, channels, H, W), and what a second pass builds on; every branch
        goes through `thinned`."""
        raise NotImplementedError

    def unsure(self, logits: Tensor) -> Tensor:
        """(B,) bool: which images are looked at again."""
        raise NotImplementedError

    def second_tokens(
        self, backbone: Passes, images: Tensor, first: FirstPass, *, trace: bool = False
    ) -> Tokens:
        """What enters block 0 the second time; `trace` fills `source`."""
        raise NotImplementedError

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        return tokens

    @classmethod
    def first_pass_macs(cls, facts: BackboneFacts, options: Options) -> tuple[int, int]:
        """Multiply-accumulates of the first pass: (without, of) attention's own products."""
        raise NotImplementedError
