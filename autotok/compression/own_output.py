"""Compressed models of other libraries that are asked, and answer, as their own models do."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from autotok.backbones.hf_vit import HFViT

from .model import CompressedViT


class OwnOutputViT(CompressedViT):
    """A compressed model of transformers: `model(pixel_values=...)` is answered in its own class.

    Called with images alone, as everything here calls a model, it gives the one tensor that it is
    asked for, as any `CompressedViT`.
    """

    def forward(
        self,
        images: Tensor | None = None,
        *,
        pixel_values: Tensor | None = None,
        full_length: bool = False,
    ) -> Any:
        """The model's own output for `pixel_values` (B, channels, height, width).

        Hidden states are those of the tokens that are left; with `full_length` they are put back
        to the length that they had: see `HFViT.answer`. With exits, in evaluation, `logits` are
        those of whichever exit answered an image, and all that the output holds.
        """
        if pixel_values is None:
            if images is None:
                raise TypeError("give pixel_values")
            if full_length:
                raise TypeError(
                    "full_length is about the model's own output, and images alone are answered by"
                    " one tensor; give them as pixel_values"
                )
            return super().forward(images)
        backbone = self.backbone
        assert isinstance(backbone, HFViT)
        if self.exits is not None and not self.training:
            return backbone.own_output(super().forward(pixel_values))
        return backbone.answer(self.forward_tokens(pixel_values, trace=full_length))
