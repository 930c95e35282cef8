"""Where every patch of an image went, read off `Tokens.source`, which every method carries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotok.backbones.base import evaluating
from autotok.tokens import Tokens

from .exit_rules import first_exits
from .exit_set import ExitSet
from .model import CompressedViT
from .tap_request import Moment, Part, TapRequest

REMOVED, PARKED = -1, -2
Patches = NDArray[np.bool_]
"""(N0,), one truth for every patch in raster order."""


@dataclass(frozen=True, eq=False)
class MapStage:
    """Where every patch is while one part of a block runs."""

    layer: int
    """Block; the number of blocks for the read-out."""
    part: Part
    num_tokens: int
    """Live patch tokens."""
    holder: NDArray[np.int64]
    """(N0,): number of the live token that holds a patch, or REMOVED, or PARKED."""
    recalled: Patches
    """Held by a token now, parked at the stage before."""

    @property
    def live(self) -> Patches:
        """Held by some token."""
        return self.holder >= 0

    @property
    def parked(self) -> Patches:
        """Waiting to be recalled."""
        found: Patches = self.holder == PARKED
        return found

    @property
    def removed(self) -> Patches:
        """Gone for good."""
        found: Patches = self.holder == REMOVED
        return found

    @cached_property
    def merged(self) -> Patches:
        """Held by a token together with other patches."""
        held = np.bincount(self.holder[self.live], minlength=1)
        return self.live & (held[np.maximum(self.holder, 0)] > 1)

    @property
    def kept(self) -> Patches:
        """A token of their own."""
        return self.live & ~self.merged

    @property
    def num_merging(self) -> int:
        """Tokens that hold several patches."""
        return len(np.unique(self.holder[self.merged]))

    @cached_property
    def anchors(self) -> NDArray[np.int64]:
        """`holder`, a token being named by the first patch that it holds."""
        found: NDArray[np.int64] = self.holder.copy()
        live = self.live
        _, first, inverse = np.unique(found[live], return_index=True, return_inverse=True)
        found[live] = np.flatnonzero(live)[first][inverse]
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain data: numbers of patches, and of every patch the token."""
        return {
            "layer": self.layer,
            "part": self.part,
            "tokens": self.num_tokens,
            "kept": int(self.kept.sum()),
            "merged": int(self.merged.sum()),
            "merged_into": self.num_merging,
            "parked": int(self.parked.sum()),
            "recalled": int(self.recalled.sum()),
            "removed": int(self.removed.sum()),
            "token_of_patch": self.holder.tolist(),
        }

    def survival(self, wanted: Patches) -> dict[str, int]:
        """What became of some patches: how many of them are held by tokens, by tokens that hold
        nothing else, and how many tokens these are."""
        own = wanted & self.live
        mixed = np.isin(self.holder, self.holder[~wanted & self.live])
        return {
            "patches": int(wanted.sum()),
            "held": int(own.sum()),
            "held_apart": int((own & ~mixed).sum()),
            "tokens": len(np.unique(self.holder[own])),
        }


@dataclass(frozen=True, eq=False)
class TokenMap:
    """The way of one image's patches through a compressed model."""

    method: str
    grid: tuple[int, int]
    num_blocks: int
    stages: tuple[MapStage, ...]
    """The attention and the MLP of every block, what a reduction after one left, the read-out."""
    logits: NDArray[np.float32]
    """What the model says of the image."""
    stopped: int | None = None
    """Block behind which an exit answered, where the map ends; None: the read-out did."""

    @cached_property
    def changes(self) -> tuple[MapStage, ...]:
        """The stages that differ from the one before them, the first from the whole image."""
        before = np.arange(self.grid[0] * self.grid[1])
        found = []
        for stage in self.stages:
            if not np.array_equal(stage.anchors, before):
                found.append(stage)
            before = stage.anchors
        return tuple(found)

    def place(self, stage: MapStage) -> str:
        """'layer 3', 'behind layer 3' or 'read-out'."""
        if stage.part == "read-out":
            return "read-out"
        return f"{'behind layer' if stage.part == 'after' else 'layer'} {stage.layer}"


@torch.no_grad()
def token_maps(model: CompressedViT, images: Tensor) -> list[TokenMap]:
    """A map for each of `images` (B, channels, height, width), normalised as the model wants.

    Every patch is held by one token, parked or removed; one that pooling shares out counts to the
    token that takes most of it. Where an exit answers, the map ends; exits whose threshold is still
    to be found stop nobody.
    """
    like, exits = next(model.parameters()), model.exits
    undecided = exits is not None and exits.policy.wants_threshold
    layers = () if exits is None else exits.policy.layers
    watch = TapRequest(mapping=True, after=frozenset(layers))
    with evaluating(model):
        images = images.to(like)
        tokens = model.forward_tokens(images, trace=True, watch=watch)
        logits = model.backbone.readout(tokens) if undecided else model(images)
        stops: list[int | None] = [None] * len(images)
        if exits is not None and not undecided:
            stops = _stops(exits, watch)
    facts = model.backbone.facts
    found = []
    for image, said in enumerate(logits.float().cpu().numpy()):
        stages = tuple(_stages(watch.moments, image, stops[image]))
        made = (model.config.method, facts.grid, facts.num_blocks, stages, said, stops[image])
        found.append(TokenMap(*made))
    return found


def _stops(exits: ExitSet, watch: TapRequest) -> list[int | None]:
    """The block behind which each image stops; None for those that go on to the end."""
    layers = exits.policy.layers
    logits = [exits.read(number, watch.tokens[layer])[0] for number, layer in enumerate(layers)]
    numbers = first_exits(exits.policy, torch.stack(logits)).tolist()
    return [None if number < 0 else layers[number] for number in numbers]


def _stages(moments: list[Moment], image: int, stopped: int | None) -> Iterator[MapStage]:
    parked = np.zeros(0, dtype=bool)
    for moment in moments:
        if stopped is not None and moment.layer > stopped:
            return
        count, holder = _holder(moment.tokens, image)
        recalled = (holder >= 0) & parked if parked.size else np.zeros(len(holder), dtype=bool)
        yield MapStage(moment.layer, moment.part, count, holder, recalled)
        parked = holder == PARKED


def _holder(tokens: Tokens, image: int) -> tuple[int, NDArray[np.int64]]:
    """Live patch tokens of an image, and (N0,) which of them holds a patch."""
    assert tokens.source is not None
    source = tokens.source[image]  # (n, N0)
    count = len(source)
    if tokens.live is not None:
        count = int(tokens.live[image].sum())
        source = source & tokens.live[image].unsqueeze(-1)
    holder = torch.full(source.shape[1:], REMOVED, device=source.device)  # there may be no token
    for waiting in tokens.parked:
        assert waiting.source is not None
        holder[waiting.source[image].any(dim=0)] = PARKED
    token, patch = source.nonzero(as_tuple=True)
    holder[patch] = token
    return count, holder.cpu().numpy()
