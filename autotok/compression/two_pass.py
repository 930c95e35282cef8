"""`TwoPassViT`: the engine of methods that run the blocks twice, see `TwoPass`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from autotok.methods.block_hooks import BlockHooks
from autotok.methods.two_pass import FirstPass, TwoPass
from autotok.tokens import Taps, Tokens

from .model import CompressedViT


@dataclass(frozen=True)
class TwoPassAnswer:
    """What an early exit gave."""

    logits: Tensor
    """(B, classes)."""
    refined: Tensor
    """(B,) bool: which images took the second pass."""


class TwoPassViT(CompressedViT):
    """Images in, logits out: of the first pass where it is sure, else of the second.

    `forward_tokens` is the second pass of every image, and so is a forward in training mode. An
    image's result does not depend on its batch: those looked at again are picked out by index.
    """

    @property
    def method(self) -> TwoPass:
        """The reducer that knows both passes."""
        found = next(iter(self.reducers.values()))
        assert isinstance(found, TwoPass)
        return found

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes) of images (B, channels, height, width)."""
        return super().forward(images) if self.training else self.answer(images).logits

    def first(self, images: Tensor) -> FirstPass:
        """The first pass of every image."""
        return self.method.first_pass(self.backbone, self._fitted(images), self._thinned)

    def second(self, images: Tensor, first: FirstPass) -> Tensor:
        """Logits (B, num_classes) of the second pass of every image, after their first."""
        tokens = self.method.second_tokens(self.backbone, self._fitted(images), first)
        tokens = dataclasses.replace(tokens, size=None)  # attention is not proportional
        return self.backbone.readout(self.backbone.run_blocks(tokens))

    def answer(self, images: Tensor) -> TwoPassAnswer:
        """The answer with early exit, and who needed a second look."""
        images = self._fitted(images)
        first = self.first(images)
        refined = self.method.unsure(first.logits)
        if refined.is_meta:  # what is counted there is what one image costs at most
            refined = torch.ones(len(images), dtype=torch.bool)
        again = refined.nonzero()[:, 0].to(first.logits.device)
        if not len(again):
            return TwoPassAnswer(first.logits, refined)
        fine = self.second(images[again], first.of(again))
        logits = first.logits.index_copy(0, again, fine.to(first.logits.dtype))
        return TwoPassAnswer(logits, refined)

    def _entering(
        self, images: Tensor, trace: bool, hooked: list[BlockHooks]
    ) -> tuple[int, Tokens, Taps]:
        images = self._fitted(images)
        first = self.first(images)
        tokens = self.method.second_tokens(self.backbone, images, first, trace=trace)
        return 0, tokens, Taps()

    def _fitted(self, images: Tensor) -> Tensor:
        """Images at the size that the model is compressed for; `ConfigError` where they are not."""
        images = self.backbone.fitted(images)
        self.check_grid(images)
        return images

    def unaltered_blocks(self) -> int:
        return 0
