"""`CompressedViT`: a backbone and its reducers, and the loop that runs both. Nothing is patched."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from autotok.backbones.base import Backbone
from autotok.config import CompressionConfig
from autotok.methods.base import Count, Placement, TokenReducer
from autotok.tokens import Needs, Taps, Tokens, naive_coords

from .schedule import Schedule

__all__ = ["CompressedViT", "Watch"]


@dataclass
class Watch:
    """What one forward shall keep beside its result; `forward_tokens` fills it."""

    after: frozenset[int] = frozenset()
    """Blocks whose outgoing tokens are wanted (after a reduction behind the block, if any)."""
    inside: Mapping[int, Needs] = field(default_factory=dict)
    """Taps wanted of a block's attention."""
    tokens: dict[int, Tokens] = field(default_factory=dict)
    """Per block of `after`: the tokens that left it."""
    taps: dict[int, tuple[Tokens, Taps]] = field(default_factory=dict)
    """Per block of `inside`: the tokens its attention saw, and the taps."""


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

    def forward_tokens(
        self, images: Tensor, *, trace: bool = False, watch: Watch | None = None
    ) -> Tokens:
        """Tokens as they reach the read-out; `trace` fills `source` (which patches each holds).

        `watch` is filled with what it asks for of the way there; without one nothing is kept.
        """
        tokens, embedded = self.backbone.embed(images, self._embed_needs, trace=trace)
        reducers = list(self._at.values())
        for reducer in reducers:
            tokens = reducer.before_blocks(tokens, embedded)
        last = self.backbone.facts.num_blocks - 1
        for layer in range(last + 1):
            if layer == last:
                for reducer in reducers:
                    tokens = reducer.before_last(tokens)
            tokens, taps = self._attended(layer, tokens, embedded, watch)
            embedded = Taps()  # only the first layer can ask for it
            tokens = self._fed(layer, tokens, taps)
            for reducer in reducers:
                tokens = reducer.after_block(layer, tokens)
            if watch is not None and layer in watch.after:
                watch.tokens[layer] = tokens
        for reducer in reducers:
            tokens = reducer.finish(tokens)
        return tokens

    # A block is two calls, so that what a half no longer needs is freed before the other peaks.

    def _attended(
        self, layer: int, tokens: Tokens, embedded: Taps, watch: Watch | None
    ) -> tuple[Tokens, Taps]:
        """First half of a block; the taps come back only for a reduction after the block."""
        reducer = self._at.get(layer)
        placement = None if reducer is None else reducer.placement
        if placement is Placement.BEFORE_BLOCKS:
            tokens = self._reduce(layer, tokens, embedded)
        elif placement is Placement.BEFORE:
            tokens = self._reduce(layer, tokens, Taps())
        needs = Needs.NONE
        if reducer is not None and placement in (Placement.MID, Placement.AFTER):
            needs = Needs.NONE if self._is_idle(layer, tokens) else reducer.needs
        wanted = Needs.NONE if watch is None else watch.inside.get(layer, Needs.NONE)
        branch, taps = self.backbone.attend(layer, self._seen(tokens), needs | wanted)
        if watch is not None and wanted:
            watch.taps[layer] = (tokens, taps)
        tokens = tokens.with_x(tokens.x + branch)
        del branch
        if placement is Placement.MID:
            tokens = self._reduce(layer, tokens, taps)
        return tokens, taps if placement is Placement.AFTER else Taps()

    def _fed(self, layer: int, tokens: Tokens, taps: Taps) -> Tokens:
        """Second half of a block."""
        tokens = tokens.with_x(tokens.x + self.backbone.feed(layer, tokens))
        reducer = self._at.get(layer)
        if reducer is not None and reducer.placement is Placement.AFTER:
            tokens = self._reduce(layer, tokens, taps)
        return tokens

    def _reduce(self, layer: int, tokens: Tokens, taps: Taps) -> Tokens:
        if self._is_idle(layer, tokens):
            return tokens
        return self._at[layer].reduce(tokens, taps, self._keep[layer])

    def _is_idle(self, layer: int, tokens: Tokens) -> bool:
        """Nothing goes at this reduction layer, so its taps are not computed either."""
        static = self._at[layer].count is Count.STATIC
        return static and self._keep[layer] == tokens.num_patches

    def _seen(self, tokens: Tokens) -> Tokens:
        """Tokens as attention sees them: sizes only if proportional, positions as configured."""
        if tokens.size is not None and not self._proportional:
            tokens = dataclasses.replace(tokens, size=None)
        if self.config.positions == "naive" and not tokens.raster and tokens.coords is not None:
            coords = naive_coords(tokens.num_patches, device=tokens.x.device)
            tokens = dataclasses.replace(tokens, coords=coords.expand(tokens.x.shape[0], -1, -1))
        return tokens
