"""`CompressedViT`: a backbone and its reducers, and the loop that runs both. Nothing is patched."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any, cast

from torch import Tensor, nn

from autotok.backbones.base import Backbone
from autotok.config import CompressionConfig
from autotok.errors import ConfigError
from autotok.methods.base import Placement, Span, TokenReducer
from autotok.methods.block_hooks import BlockHooks
from autotok.methods.image_scoring import ImageScoring
from autotok.methods.learning import Learning
from autotok.methods.observing import Observing, observed_needs
from autotok.methods.primitives import select_images
from autotok.methods.thresholds import Calibrated
from autotok.tokens import Needs, Taps, Tokens, exactly, is_watched, naive_coords, traced

from .exit_set import ExitSet
from .schedule import Schedule
from .tap_request import TapRequest
from .telling import missing_thresholds, silent_hooks

_LOG = logging.getLogger(__name__)
EMBEDDED = Needs.EMBEDDING | Needs.IMAGE | Needs.GRID
"""What the embedding gives."""


class CompressedViT(nn.Module):
    """Images in, logits out, with fewer tokens on the way.

    `state_dict` keys read `backbone.*`, `reducers.<layer>.*` and `exits.heads.<number>.*`; dropping
    this wrapper leaves the backbone exactly as it was.

    The loop runs the parts of a block and of its attention, never the block or the attention as
    modules, so hooks on those never fire. What left a block, and its attention's taps, come from
    `forward_tokens(images, watch=TapRequest(...))`; hooks on the parts (`blocks.3.mlp`) fire,
    except in AutoFormers, whose weights are read as tensors.
    """

    def __init__(
        self,
        backbone: Backbone,
        config: CompressionConfig,
        schedule: Schedule,
        reducers: dict[int, TokenReducer],
        exits: ExitSet | None = None,
        *,
        original: Backbone | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.reducers = nn.ModuleDict({str(layer): r for layer, r in reducers.items()})
        self.exits = exits
        """Heads that may answer early; None without a policy."""
        self.config = config
        self.schedule = schedule
        self._hearing = self._listeners()
        self._said: set[str] = set()
        """What was told of."""
        self.entry: tuple[int, Tokens] | None = None
        """Where the next forward starts, and with what; see `activations`."""
        self.thin: Callable[[int, Tensor], Tensor] | None = None
        """In training, what is done to a block's branch before it is added: stochastic depth."""
        self.is_folded = False
        """Whether adapters are folded into the weights, and those without them are not here."""
        self._origin = (original or backbone,)  # a tuple: its weights are not this model's

    @property
    def original(self) -> Backbone:
        """The backbone that was compressed: the one held, or its twin where weights were folded."""
        return self._origin[0]

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> CompressedViT:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.original is not self.backbone:  # they share weights, so they move together
            self.original._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    # Reducers are looked up at every call, so that a replica's own, and one put in later, count.

    def _at(self) -> dict[int, TokenReducer]:
        """The reducers by layer, in order."""
        return {int(layer): cast(TokenReducer, r) for layer, r in self.reducers.items()}

    def _reducer(self, layer: int) -> TokenReducer | None:
        key = str(layer)
        return cast(TokenReducer, self.reducers[key]) if key in self.reducers else None

    def _listeners(self) -> dict[int, Needs]:
        """Blocks whose attention the method wants to hear of, and what."""
        at = self._at()
        if not at:
            return {}
        first = next(iter(at.values()))
        options = first.resolve_options(self.config.options)
        return observed_needs(type(first), tuple(at), self.backbone.facts, options)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes) of images (B, channels, height, width).

        In evaluation an image with exits stops at the first that is sure enough; the others go on
        without it. In training none stops.
        """
        if self.exits is None or self.training:
            return self.backbone.readout(self.forward_tokens(images))
        hooked = self._hooked()
        first, tokens, embedded = self._entering(images, False, hooked)
        early = self.exits.begin()
        for layer in range(first, self.backbone.facts.num_blocks):
            tokens = self.through(range(layer, layer + 1), tokens, embedded)
            going_on = early.ask(layer, tokens)
            if going_on is not None and not len(going_on):
                return early.with_final(None)
            tokens = tokens if going_on is None else select_images(tokens, going_on)
        return early.with_final(self.ended(tokens))

    def run_to_end(self, images: Tensor, on_block: Callable[[int], None]) -> Tensor:
        """Logits (B, num_classes) of images that never stop, every head asked on the way, as
        somebody wants it who times or traces blocks: `on_block` as in `TapRequest`."""
        ask = None if self.exits is None else self.exits.ask_behind
        watch = TapRequest(on_block=on_block, on_left=ask)
        return self.backbone.readout(self.forward_tokens(images, watch=watch))

    # The same loop in pieces, for who has to stop between blocks.

    def entered(self, images: Tensor) -> tuple[Tokens, Taps]:
        """What enters block 0 of images (B, channels, height, width), and the embedding's taps."""
        _, tokens, embedded = self._entering(images, False, self._hooked())
        return tokens, embedded

    def through(self, layers: range, tokens: Tokens, embedded: Taps) -> Tokens:
        """What leaves the last of some blocks in a row; only block 0 looks at `embedded`."""
        for layer in layers:
            tokens, taps = self._attended(layer, tokens, embedded)
            tokens = self._fed(layer, tokens, taps)
        return tokens

    def ended(self, tokens: Tokens) -> Tensor:
        """Logits (B, num_classes) of what left the last block."""
        for reducer in self._hooked():
            tokens = reducer.finish(tokens)
        return self.backbone.readout(tokens)

    def _hooked(self) -> list[BlockHooks]:
        return [reducer for reducer in self._at().values() if isinstance(reducer, BlockHooks)]

    def forward_tokens(
        self, images: Tensor, *, trace: bool = False, watch: TapRequest | None = None
    ) -> Tokens:
        """Tokens as they reach the read-out; `trace` fills `source` (which patches each holds).

        `watch` is filled with what it asks for of the way there; without one nothing is kept.
        """
        if not is_watched():
            self._tell(silent_hooks(self.backbone))
        hooked = self._hooked()
        first, tokens, embedded = self._entering(images, trace, hooked)
        last = self.backbone.facts.num_blocks - 1
        if watch is not None:
            for layer in range(first):
                watch.enter(layer, tokens)
        for layer in range(first, last + 1):
            if watch is not None:
                watch.begin(layer)
            tokens, taps = self._attended(layer, tokens, embedded, watch)
            embedded = Taps()  # only the first layer can ask for it
            tokens = self._fed(layer, tokens, taps, watch)
            if watch is not None and layer in watch.after:
                watch.tokens[layer] = tokens
            if watch is not None and watch.on_left is not None:
                watch.on_left(layer, tokens)
        if watch is not None:
            watch.begin(last + 1)
        for reducer in hooked:
            tokens = reducer.finish(tokens)
        if watch is not None:
            watch.enter(last + 1, tokens)
            watch.see(last + 1, "read-out", tokens)
        return tokens

    def _entering(
        self, images: Tensor, trace: bool, hooked: list[BlockHooks]
    ) -> tuple[int, Tokens, Taps]:
        """Block to start with, the tokens that enter it, and the embedding's taps for block 0."""
        if not (images.is_meta or is_watched()):
            self._tell_of_thresholds()
        if self.entry is not None:
            first, tokens = self.entry
            return first, traced(tokens) if trace else tokens, Taps()
        images = self.backbone.fitted(images)
        if self.reducers or self.exits:
            self.check_grid(images)
        image_scores = self._look(images)
        tokens, embedded = self.backbone.embed(images, self.embedding_needs(), trace=trace)
        if image_scores is not None:
            embedded = embedded.having("image_scores", image_scores)
        with exactly(tokens.x):
            for reducer in hooked:
                tokens = reducer.before_blocks(tokens, embedded)
        return 0, tokens, embedded

    def check_grid(self, images: Tensor) -> None:
        """Raise `ConfigError` where schedule, places and costs are of another grid than that of
        fitted images (some models embed images of any size and shape)."""
        facts, (height, width) = self.backbone.facts, images.shape[-2:]
        grid = height // facts.patch_size[0], width // facts.patch_size[1]
        if grid == facts.grid:
            return
        raise ConfigError(
            f"images of {height} x {width} pixels give {grid[0]} x {grid[1]} patches, and"
            f" '{facts.name}' is for {facts.grid[0]} x {facts.grid[1]}, those of"
            f" {facts.image_shape[1]} x {facts.image_shape[2]}; give images of that size, or wrap"
            " the model for yours: autotok.compress(model, ..., image_size=PIXELS)"
        )

    def embedding_needs(self) -> Needs:
        """What the reducers ask of the embedding."""
        needs = Needs.NONE
        for reducer in self._at().values():
            needs |= reducer.needs & EMBEDDED
        if self.reducers and self.exits is not None and self.exits.needs_grid:
            needs |= Needs.GRID
        return needs

    def unaltered_blocks(self) -> int:
        """Blocks, from the first on, in which nothing is done or heard: what leaves them is what
        leaves the uncompressed model's."""
        at = self._at()
        altered = self.training or self.is_folded or self.original is not self.backbone
        if altered or any(acts_early(reducer) for reducer in at.values()):
            return 0
        layers = () if self.exits is None else self.exits.policy.layers
        return min((*at, *self._hearing, *layers), default=0)

    def _tell(self, words: str) -> None:
        """Say something once, if there is anything to say."""
        if words and words not in self._said:
            self._said.add(words)
            _LOG.warning("%s", words)

    def _tell_of_thresholds(self) -> None:
        """Say once that a method of thresholds runs without any, unless they are being found."""
        first = next(iter(self._at().values()), None)
        if isinstance(first, Calibrated) and not (first.calibrating or self.training):
            self._tell(missing_thresholds(self.config))

    def _look(self, images: Tensor) -> Tensor | None:
        """What the method takes from the images before they are embedded."""
        for reducer in self._at().values():
            if isinstance(reducer, ImageScoring) and not is_idle(reducer):
                with exactly(images):
                    return reducer.look(images)
        return None

    # A block is two calls in the loop itself: what a half no longer needs is freed before the other
    # peaks, which a function around both would keep.

    def _attended(
        self, layer: int, tokens: Tokens, embedded: Taps, watch: TapRequest | None = None
    ) -> tuple[Tokens, Taps]:
        """First half of a block; the taps come back only for a reduction after the block."""
        if watch is not None:
            watch.enter(layer, tokens)
        if layer == self.backbone.facts.num_blocks - 1:
            for hook in self._hooked():
                tokens = hook.before_last(tokens)
        reducer = self._reducer(layer)
        placement = None if reducer is None else reducer.placement
        if reducer is not None and placement is Placement.BEFORE_BLOCKS:
            tokens = reduced(reducer, tokens, embedded)
        elif reducer is not None and placement is Placement.BEFORE:
            idle = not reducer.needs or is_idle(reducer)
            taps = Taps() if idle else self.backbone.scout(layer, tokens, reducer.needs)
            tokens = reduced(reducer, tokens, taps)
            del taps
        needs = Needs.NONE
        if reducer is not None and placement in (Placement.MID, Placement.AFTER):
            needs = Needs.NONE if is_idle(reducer) else reducer.needs
        heard = self._hearing.get(layer, Needs.NONE)
        wanted = Needs.NONE if watch is None else watch.inside.get(layer, Needs.NONE)
        branch, taps = self.backbone.attend(layer, self._seen(tokens), needs | heard | wanted)
        if watch is not None:
            if wanted:
                watch.taps[layer] = (tokens, taps)
            watch.see(layer, "attention", tokens)
        tokens = tokens.with_x(tokens.x + self._thinned(layer, branch))
        del branch
        if heard:
            first = next(iter(self.reducers.values()))
            assert isinstance(first, Observing)
            with exactly(tokens.x) as off:
                seen = taps.widened() if off is not None else taps
                tokens = first.observe(layer, tokens, seen)
        if reducer is not None and placement is Placement.MID:
            tokens = reduced(reducer, tokens, taps)
        return tokens, taps if placement is Placement.AFTER else Taps()

    def _fed(
        self, layer: int, tokens: Tokens, taps: Taps, watch: TapRequest | None = None
    ) -> Tokens:
        """Second half of a block."""
        if watch is not None:
            watch.see(layer, "mlp", tokens)
        branch = self._thinned(layer, self.backbone.feed(layer, tokens))
        tokens = tokens.with_x(tokens.x + branch)
        del branch
        reducer = self._reducer(layer)
        if reducer is not None and reducer.placement is Placement.AFTER:
            tokens = reduced(reducer, tokens, taps)
            if watch is not None:
                watch.see(layer, "after", tokens)
        for hook in self._hooked():
            tokens = hook.after_block(layer, tokens)
        return tokens

    def _thinned(self, layer: int, branch: Tensor) -> Tensor:
        return self.thin(layer, branch) if self.thin is not None and self.training else branch

    def _seen(self, tokens: Tokens) -> Tokens:
        """Tokens as attention sees them: sizes only if proportional, positions as configured."""
        if tokens.size is not None and not self._is_proportional():
            tokens = dataclasses.replace(tokens, size=None)
        if self.config.positions == "naive" and not tokens.raster and tokens.coords is not None:
            coords = naive_coords(tokens.num_patches, device=tokens.x.device)
            tokens = dataclasses.replace(tokens, coords=coords.expand(tokens.x.shape[0], -1, -1))
        return tokens

    def _is_proportional(self) -> bool:
        return any(cast(TokenReducer, r).proportional_attention for r in self.reducers.values())

    # --- what the method learned

    def emitted(self) -> CompressionConfig:
        """The configuration, with the amounts that training or calibration found."""
        at = self._at()
        first = next(iter(at.values()), None)
        return first.emit(at, self.config) if isinstance(first, Learning) else self.config

    def deploy(self) -> CompressedViT:
        """This model without what only training needs."""
        for reducer in self._at().values():
            if isinstance(reducer, Learning):
                reducer.deploy()
        return self


def reduced(reducer: TokenReducer, tokens: Tokens, taps: Taps) -> Tokens:
    """What a reducer makes of the tokens at its layer."""
    if is_idle(reducer):
        return tokens
    with exactly(tokens.x) as off:
        taps = taps.widened() if off is not None else taps
        return reducer.reduce(tokens, taps, reducer.site.num_keep)


def is_idle(reducer: TokenReducer) -> bool:
    """Nothing goes at this reduction layer, so its taps are not computed either."""
    if reducer.span is Span.STAGE:
        return False
    return not reducer.acts(reducer.site.num_entering, reducer.site.num_keep, reducer.values)


def acts_early(reducer: TokenReducer) -> bool:
    """Whether something may be done before the reduction layer itself."""
    if isinstance(reducer, BlockHooks) and reducer.acts_early:
        return True
    return isinstance(reducer, ImageScoring) or reducer.placement is Placement.BEFORE_BLOCKS
