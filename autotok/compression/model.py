"""`CompressedViT`: a backbone and its reducers, and the loop that runs both. Nothing is patched."""

from __future__ import annotations

import dataclasses

from torch import Tensor, nn

from autotok.backbones.base import Backbone
from autotok.config import CompressionConfig
from autotok.methods.base import Count, Placement, TokenReducer
from autotok.tokens import Needs, Taps, Tokens, naive_coords

from .schedule import Schedule

__all__ = ["CompressedViT"]


class CompressedViT(nn.Module):
    """Images in, logits out, with fewer tokens on the way.

    `state_dict` keys read `backbone.*` and `reducers.<layer>.*`; dropping this wrapper leaves the
    backbone exactly as it was.
    """

    def __init__(
        self,
        backbone: Backbone,
        config: CompressionConfig,
        schedule: Schedule,
        reducers: dict[int, TokenReducer],
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.reducers = nn.ModuleDict({str(layer): r for layer, r in reducers.items()})
        self.config = config
        self.schedule = schedule
        self._at = {layer: reducer for layer, reducer in reducers.items()}
        self._keep = {site.layer: site.num_keep for site in schedule.sites}
        self._embed_needs = Needs.NONE
        for reducer in reducers.values():
            self._embed_needs |= reducer.needs & (Needs.EMBEDDING | Needs.IMAGE | Needs.GRID)
        self._proportional = any(r.proportional_attention for r in reducers.values())

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes) of images (B, channels, height, width)."""
        return self.backbone.readout(self.forward_tokens(images))

    def forward_tokens(self, images: Tensor, *, trace: bool = False) -> Tokens:
        """Tokens as they reach the read-out; `trace` fills `source` (which patches each holds)."""
        tokens, embedded = self.backbone.embed(images, self._embed_needs, trace=trace)
        reducers = list(self._at.values())
        for reducer in reducers:
            tokens = reducer.before_blocks(tokens, embedded)
        last = self.backbone.facts.num_blocks - 1
        for layer in range(last + 1):
            if layer == last:
                for reducer in reducers:
                    tokens = reducer.before_last(tokens)
            tokens = self._block(layer, tokens, embedded)
            for reducer in reducers:
                tokens = reducer.after_block(layer, tokens)
        for reducer in reducers:
            tokens = reducer.finish(tokens)
        return tokens

    def _block(self, layer: int, tokens: Tokens, embedded: Taps) -> Tokens:
        reducer = self._at.get(layer)
        placement = None if reducer is None else reducer.placement
        if placement is Placement.BEFORE_BLOCKS:
            tokens = self._reduce(layer, tokens, embedded)
        elif placement is Placement.BEFORE:
            tokens = self._reduce(layer, tokens, Taps())
        needs = Needs.NONE
        if reducer is not None and placement in (Placement.MID, Placement.AFTER):
            needs = reducer.needs
        branch, taps = self.backbone.attend(layer, self._seen(tokens), needs)
        tokens = tokens.with_x(tokens.x + branch)
        if placement is Placement.MID:
            tokens = self._reduce(layer, tokens, taps)
        tokens = tokens.with_x(tokens.x + self.backbone.feed(layer, tokens))
        if placement is Placement.AFTER:
            tokens = self._reduce(layer, tokens, taps)
        return tokens

    def _reduce(self, layer: int, tokens: Tokens, taps: Taps) -> Tokens:
        reducer, keep = self._at[layer], self._keep[layer]
        if reducer.count is Count.STATIC and keep == tokens.num_patches:
            return tokens
        return reducer.reduce(tokens, taps, keep)

    def _seen(self, tokens: Tokens) -> Tokens:
        """Tokens as attention sees them: sizes only if proportional, positions as configured."""
        if tokens.size is not None and not self._proportional:
            tokens = dataclasses.replace(tokens, size=None)
        if self.config.positions == "naive" and not tokens.raster and tokens.coords is not None:
            coords = naive_coords(tokens.num_patches, device=tokens.x.device)
            tokens = dataclasses.replace(tokens, coords=coords.expand(tokens.x.shape[0], -1, -1))
        return tokens
