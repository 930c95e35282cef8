"""`CompressedViT`: a backbone and its reducers, and the loop that runs both. Nothing is patched."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from autotok.backbones.base import Backbone
from autotok.config import CompressionConfig
from autotok.methods.base import Count, Placement, Span, TokenReducer
from autotok.tokens import Needs, Taps, Tokens, naive_coords

from .schedule import Schedule

__all__ = ["BlockCounts", "CompressedViT", "Watch"]


@dataclass
class BlockCounts:
    """Live patch tokens of one block, (B,) each."""

    entering: Tensor
    """Before any reduction of the block."""
    attention: Tensor
    mlp: Tensor


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
    counting: bool = False
    """Whether to count live patch tokens."""
    counts: dict[int, BlockCounts] = field(default_factory=dict)
    """Per block, if `counting`; under the number of blocks, the read-out's."""


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
        self._hearing = self._listeners()

    def _listeners(self) -> dict[int, Needs]:
        """Blocks whose attention the method wants to hear of, and what."""
        if not self._at:
            return {}
        first = next(iter(self._at.values()))
        layers, facts = tuple(self._at), self.backbone.facts
        options = first.resolve_options(self.config.options)
        wanted = {
            layer: first.listens(layer, layers, facts, options) for layer in range(facts.num_blocks)
        }
        return {layer: needs for layer, needs in wanted.items() if needs}

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes) of images (B, channels, height, width)."""
        return self.backbone.readout(self.forward_tokens(images))

    def forward_tokens(
        self, images: Tensor, *, trace: bool = False, watch: Watch | None = None
    ) -> Tokens:
        """Tokens as they reach the read-out; `trace` fills `source` (which patches each holds).

        `watch` is filled with what it asks for of the way there; without one nothing is kept.
        """
        sight = self._look(images)
        tokens, embedded = self.backbone.embed(images, self._embed_needs, trace=trace)
        if sight is not None:
            embedded = embedded.having("sight", sight)
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
            tokens = self._fed(layer, tokens, taps, watch)
            for reducer in reducers:
                tokens = reducer.after_block(layer, tokens)
            if watch is not None and layer in watch.after:
                watch.tokens[layer] = tokens
        for reducer in reducers:
            tokens = reducer.finish(tokens)
        if watch is not None and watch.counting:
            watch.counts[last + 1] = BlockCounts(*[live_counts(tokens)] * 3)
        return tokens

    def _look(self, images: Tensor) -> Tensor | None:
        """What the method takes from the images before they are embedded."""
        for layer, reducer in self._at.items():
            if reducer.placement is Placement.BEFORE_BLOCKS and not self._is_idle(layer):
                return reducer.look(images)
        return None

    # A block is two calls, so that what a half no longer needs is freed before the other peaks.

    def _attended(
        self, layer: int, tokens: Tokens, embedded: Taps, watch: Watch | None
    ) -> tuple[Tokens, Taps]:
        """First half of a block; the taps come back only for a reduction after the block."""
        reducer = self._at.get(layer)
        placement = None if reducer is None else reducer.placement
        if watch is not None and watch.counting:
            watch.counts[layer] = BlockCounts(*[live_counts(tokens)] * 3)
        if reducer is not None and placement is Placement.BEFORE_BLOCKS:
            tokens = self._reduce(layer, tokens, embedded)
        elif reducer is not None and placement is Placement.BEFORE:
            idle = not reducer.needs or self._is_idle(layer)
            taps = Taps() if idle else self.backbone.scout(layer, tokens, reducer.needs)
            tokens = self._reduce(layer, tokens, taps)
            del taps
        needs = Needs.NONE
        if reducer is not None and placement in (Placement.MID, Placement.AFTER):
            needs = Needs.NONE if self._is_idle(layer) else reducer.needs
        heard = self._hearing.get(layer, Needs.NONE)
        wanted = Needs.NONE if watch is None else watch.inside.get(layer, Needs.NONE)
        branch, taps = self.backbone.attend(layer, self._seen(tokens), needs | heard | wanted)
        if watch is not None:
            if wanted:
                watch.taps[layer] = (tokens, taps)
            if watch.counting:
                watch.counts[layer].attention = live_counts(tokens)
        tokens = tokens.with_x(tokens.x + branch)
        del branch
        if heard:
            tokens = next(iter(self._at.values())).hear(layer, tokens, taps)
        if placement is Placement.MID:
            tokens = self._reduce(layer, tokens, taps)
        return tokens, taps if placement is Placement.AFTER else Taps()

    def _fed(self, layer: int, tokens: Tokens, taps: Taps, watch: Watch | None) -> Tokens:
        """Second half of a block."""
        if watch is not None and watch.counting:
            watch.counts[layer].mlp = live_counts(tokens)
        tokens = tokens.with_x(tokens.x + self.backbone.feed(layer, tokens))
        reducer = self._at.get(layer)
        if reducer is not None and reducer.placement is Placement.AFTER:
            tokens = self._reduce(layer, tokens, taps)
        return tokens

    def _reduce(self, layer: int, tokens: Tokens, taps: Taps) -> Tokens:
        if self._is_idle(layer):
            return tokens
        return self._at[layer].reduce(tokens, taps, self._keep[layer])

    def _is_idle(self, layer: int) -> bool:
        """Nothing goes at this reduction layer, so its taps are not computed either."""
        reducer = self._at[layer]
        if reducer.count is Count.ADAPTIVE or reducer.span is Span.STAGE:
            return False
        return reducer.site.num_keep == reducer.site.num_entering

    def _seen(self, tokens: Tokens) -> Tokens:
        """Tokens as attention sees them: sizes only if proportional, positions as configured."""
        if tokens.size is not None and not self._proportional:
            tokens = dataclasses.replace(tokens, size=None)
        if self.config.positions == "naive" and not tokens.raster and tokens.coords is not None:
            coords = naive_coords(tokens.num_patches, device=tokens.x.device)
            tokens = dataclasses.replace(tokens, coords=coords.expand(tokens.x.shape[0], -1, -1))
        return tokens

    # --- what the method learned

    def emitted(self) -> CompressionConfig:
        """The configuration, with the amounts that training or calibration found."""
        if not self._at:
            return self.config
        return next(iter(self._at.values())).emit(self._at, self.config)

    def deploy(self) -> CompressedViT:
        """This model without what only training needs."""
        for reducer in self._at.values():
            reducer.deploy()
        return self


def live_counts(tokens: Tokens) -> Tensor:
    """(B,) int64: patch tokens of each image, padding left out."""
    if tokens.live is not None:
        return tokens.live.sum(dim=1)
    batch = tokens.x.shape[0]
    return torch.full((batch,), tokens.num_patches, device=tokens.x.device)
