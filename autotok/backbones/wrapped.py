"""`WrappedViT`: another library's ViT, run part by part through the engine's four steps.

A family says where the parts are (`entering`, `parts`, `readout`, and what blocks know of places);
the norms, projections, attention and taps in between are here, once for all of them. The model
itself is not changed: it is held, and its own modules are called.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotok.facts import BackboneFacts
from autotok.tokens import Needs, Taps, Tokens

from .attention import Projection, attention, key_bias, scouted
from .base import Backbone, in_full
from .places import angles_at, bias_between, turned

Layer = Callable[[Tensor], Tensor]


def unchanged(x: Tensor) -> Tensor:
    """The layer that is none."""
    return x


@dataclass(frozen=True)
class BlockParts:
    """One block: its layers, and the two residual branches that end in them."""

    norm: Layer
    """From tokens (B, N, C) to what attention reads."""
    qkv: tuple[Projection, ...]
    """One joint projection (3 H D, C), queries first, or queries', keys' and values' own."""
    head_dim: int
    out: Callable[[Tensor, Tensor | None], Tensor]
    """The attention branch (B, N, C), scaled, of heads' outputs (B, N, H D) and the gate."""
    feed: Layer
    """The MLP branch (B, N, C), norm and scale included, of tokens."""
    norms: tuple[Layer, Layer] = (unchanged, unchanged)
    """Of queries and of keys, per head."""
    gate: Layer | None = None
    """(B, N, H D) of what attention read, which `out` wants."""


class WrappedViT(Backbone):
    """Base of the adapters of other libraries' models."""

    blocks_at = "blocks"
    """Dotted name of the list of blocks in the model."""
    attention_at = "attn"
    """Dotted name of the attention in a block."""
    turns_halves = False
    """How rotary angles turn channels, see `places.turned`."""

    def __init__(self, model: nn.Module, facts: BackboneFacts) -> None:
        super().__init__()
        self.model: Any = model
        self.training = model.training
        self.facts = facts

    # --- what a family says

    def entering(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Tokens with their positions (B, N, C), and the patches alone (B, n, C) where at hand."""
        raise NotImplementedError

    def before_blocks(self, x: Tensor) -> Tensor:
        """What enters block 0 of what `entering` gave: a norm, where there is one."""
        return x

    def position_table(self) -> Tensor:
        """(N0, C), the absolute positions of the patches; asked for only if the facts have one."""
        raise NotImplementedError

    def parts(self, block: Any) -> BlockParts:
        """The parts of one of the model's blocks."""
        raise NotImplementedError

    def angles(self, index: int) -> Tensor | None:
        """Rotary angles of the whole grid for a block, see `places.angles_at`; None for none."""
        return None

    def bias(self, index: int) -> Tensor | None:
        """(H, P + N0, P + N0), what places add to a block's logits, `shared_bias` left out; None
        for nothing."""
        return None

    def shared_bias(self) -> Tensor | None:
        """(H, P + N0, P + N0), what places add to the logits of every block; None for nothing."""
        return None

    # --- the four steps

    @in_full
    def embed(
        self, images: Tensor, needs: Needs = Needs.NONE, *, trace: bool = False
    ) -> tuple[Tokens, Taps]:
        images = self.fitted(images)
        x, patches = self.entering(images)
        if patches is None and needs & Needs.EMBEDDING:
            patches = x[:, self.facts.num_prefix :] - self.position_table()
        given = x if patches is None else patches
        tokens, taps = self.embedded(x, images, given, self.position_table, needs, trace)
        shared = self.shared_bias()
        return dataclasses.replace(tokens, x=self.before_blocks(x), shared=shared), taps

    def attend(self, index: int, tokens: Tokens, needs: Needs = Needs.NONE) -> tuple[Tensor, Taps]:
        parts = self.parts(self.block(index))
        normed = parts.norm(tokens.x)
        gate = None if parts.gate is None else parts.gate(normed)
        q, k, v = _heads(parts, normed)
        q, v = self.with_added(index, normed, q, v)
        if not needs & Needs.NORMED:
            del normed  # attention's memory peaks without it
        q, k = parts.norms[0](q), parts.norms[1](k)
        q, k = self._turned(index, tokens, q, k)
        shared = self.shared_bias() if tokens.shared is None else tokens.shared
        added = [part for part in (self.bias(index), shared) if part is not None]
        between = bias_between(sum(added[1:], added[0]), tokens) if added else None
        dropout = _dropout(self.block(index).get_submodule(self.attention_at))
        out, taps = attention(q, k, v, tokens, needs, positions=between, dropout=dropout)
        if needs & Needs.NORMED:
            taps = taps.having("normed", normed)
        return parts.out(out.transpose(1, 2).flatten(2), gate), taps

    def scout(self, index: int, tokens: Tokens, needs: Needs) -> Taps:
        parts = self.parts(self.block(index))
        norms = (*parts.norms, unchanged)
        qkv = parts.qkv if len(parts.qkv) == 3 else parts.qkv[0]
        taps = scouted(parts.norm(tokens.x), qkv, parts.head_dim, needs, norms)
        for name in ("queries", "keys"):
            if name in taps.names():
                taps = taps.having(name, self._turned(index, tokens, getattr(taps, name))[0])
        return taps

    def feed(self, index: int, tokens: Tokens) -> Tensor:
        return self.parts(self.block(index)).feed(tokens.x)

    def qkv_weights(self, index: int) -> tuple[Tensor, ...]:
        found = [part.weight for part in self.parts(self.block(index)).qkv]
        return tuple(weight for weight in found if isinstance(weight, nn.Parameter))

    # --- the model

    def block(self, index: int) -> Any:
        """One of the model's own blocks."""
        return self.model.get_submodule(self.blocks_at)[index]

    def unused(self) -> Iterator[tuple[str, nn.Module]]:
        yield "the model", self.model
        for index in range(self.facts.num_blocks):
            name, block = f"{self.blocks_at}.{index}", self.block(index)
            yield name, block
            yield f"{name}.{self.attention_at}", block.get_submodule(self.attention_at)

    @property
    def weights(self) -> nn.Module:
        model: nn.Module = self.model
        return model

    def _turned(self, index: int, tokens: Tokens, *rows: Tensor) -> tuple[Tensor, ...]:
        """Queries or keys as attention compares them: turned by their tokens' places."""
        table = self.angles(index)
        if table is None:
            return rows
        angles, halves = angles_at(table, tokens), self.turns_halves
        return tuple(turned(x, angles, tokens.num_prefix, halves=halves) for x in rows)


def _heads(parts: BlockParts, normed: Tensor) -> tuple[Tensor, ...]:
    """Queries, keys and values, (B, H, N, D) each."""
    given = [part(normed) for part in parts.qkv]
    rows = given[0].chunk(3, dim=-1) if len(given) == 1 else given
    return tuple(x.unflatten(-1, (-1, parts.head_dim)).transpose(1, 2) for x in rows)


def pooling_bias(tokens: Tokens, dtype: torch.dtype, *, prefix: bool) -> Tensor | None:
    """(B, 1, 1, N or n) to add to the logits of a pooling by attention: a token counts as many
    times as it holds patches; padding and what masked training dropped count nothing."""
    bias = key_bias(tokens, dtype)
    if tokens.mask is not None:
        seen = F.pad(tokens.mask, (tokens.num_prefix, 0), value=1.0).clamp_min(1e-6).log()
        bias = seen.to(dtype) if bias is None else bias + seen.to(dtype)
    if bias is None:
        return None
    return bias[:, None, None, 0 if prefix else tokens.num_prefix :]


def _dropout(attn: nn.Module) -> float:
    """Of the weights of an attention that is trained: timm has a module for it, transformers a
    number."""
    if not attn.training:
        return 0.0
    held = (getattr(attn, name, None) for name in ("attn_drop", "attention_dropout", "dropout"))
    rates = (part.p if isinstance(part, nn.Dropout) else part for part in held)
    return next((float(rate) for rate in rates if isinstance(rate, (int, float))), 0.0)
