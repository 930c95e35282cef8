"""`TapRequest`: what one forward keeps beside its result, for whoever looks on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from autotok.tokens import Needs, Taps, Tokens

Part = Literal["attention", "mlp", "after", "read-out"]
"""Of a block, or what follows the last one."""


@dataclass
class BlockCounts:
    """Live patch tokens of one block, (B,) each."""

    entering: Tensor
    """What left the block before, its reduction included: before anything of this block."""
    attention: Tensor
    mlp: Tensor


@dataclass(frozen=True)
class Moment:
    """The tokens of one part of a block: what its attention saw, what its MLP saw, what a reduction
    after it left; or what the read-out sees."""

    layer: int
    """Block; the number of blocks for the read-out."""
    part: Part
    tokens: Tokens


@dataclass
class TapRequest:
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
    with_padding: bool = False
    """Whether padding counts: of a method that runs as many rows of every image."""
    counts: dict[int, BlockCounts] = field(default_factory=dict)
    """Per block, if `counting`; under the number of blocks, the read-out's."""
    mapping: bool = False
    """Whether to keep the tokens of every part of every block."""
    moments: list[Moment] = field(default_factory=list)
    """In their order, if `mapping`."""
    on_block: Callable[[int], None] | None = None
    """Told of every block before it runs, and of the read-out as the number of blocks."""
    on_left: Callable[[int, Tokens], None] | None = None
    """Given what leaves every block, before the next begins."""

    def begin(self, layer: int) -> None:
        """A block begins, its reduction included."""
        if self.on_block is not None:
            self.on_block(layer)

    def enter(self, layer: int, tokens: Tokens) -> None:
        """Tokens arrive at a block, or at the read-out."""
        if self.counting:
            self.counts[layer] = BlockCounts(*[self._counted(tokens)] * 3)

    def see(self, layer: int, part: Part, tokens: Tokens) -> None:
        """A part of a block runs on tokens."""
        if self.counting and part in ("attention", "mlp"):
            setattr(self.counts[layer], part, self._counted(tokens))
        if self.mapping:
            self.moments.append(Moment(layer, part, tokens))

    def _counted(self, tokens: Tokens) -> Tensor:
        return live_counts(dataclasses.replace(tokens, live=None) if self.with_padding else tokens)


def live_counts(tokens: Tokens) -> Tensor:
    """(B,) int64: patch tokens of each image, padding left out."""
    if tokens.live is not None:
        return tokens.live.sum(dim=1)
    batch = tokens.x.shape[0]
    return torch.full((batch,), tokens.num_patches, device=tokens.x.device)
