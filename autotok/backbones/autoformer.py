"""AutoFormer (Chen et al., ICCV 2021, arXiv 2107.00651): the forward, and stand-alone subnets.

Weights of a block are handed to one forward as plain tensors, so that a stand-alone subnet
(`AutoFormer`) and a view on a supernet's shared weights (`supernet.SupernetView`) run the same
code. Relative positions are looked up by the coordinates that travel with the tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotok.config import SubnetSpec
from autotok.errors import ConfigError
from autotok.facts import BackboneFacts, BlockFacts
from autotok.tokens import Needs, Taps, Tokens

from .attention import LinearPart, scouted
from .base import Backbone, in_full, pool_mean
from .relative_attention import RelativeTables, relative_attention

# torch's default, as the authors' code leaves it; timm's ViTs have 1e-6
LAYER_NORM_EPS = 1e-5


@dataclass(frozen=True)
class SupernetSpec:
    """Shapes of a supernet: the largest subnet it can hold, and the choices it was made for."""

    embed_dim: int
    depth: int
    heads: int
    mlp_ratio: float
    embed_choices: tuple[int, ...]
    depth_choices: tuple[int, ...]
    heads_choices: tuple[int, ...]
    mlp_ratio_choices: tuple[float, ...]
    image_shape: tuple[int, int, int] = (3, 224, 224)
    patch_size: int = 16
    num_classes: int = 1000
    head_dim: int = 64
    max_offset: int = 14
    pooling: str = "mean"

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return (self.image_shape[1] // self.patch_size, self.image_shape[2] // self.patch_size)

    def largest(self) -> SubnetSpec:
        """The largest subnet within the choices."""
        return self._extreme(max)

    def smallest(self) -> SubnetSpec:
        """The smallest subnet within the choices."""
        return self._extreme(min)

    def _extreme(self, pick: Callable[[Iterable[Any]], Any]) -> SubnetSpec:
        depth = pick(self.depth_choices)
        heads, ratio = pick(self.heads_choices), pick(self.mlp_ratio_choices)
        return SubnetSpec(pick(self.embed_choices), (heads,) * depth, (ratio,) * depth)

    def check(self, subnet: SubnetSpec) -> None:
        """Raise `ConfigError` unless the subnet's slices fit into the supernet."""
        limits = (
            ("embed_dim", subnet.embed_dim, self.embed_dim),
            ("depth", subnet.depth, self.depth),
            ("heads", max(subnet.heads), self.heads),
            ("MLP ratio", max(subnet.mlp_ratios), self.mlp_ratio),
        )
        for word, asked, allowed in limits:
            if not asked <= allowed:  # which no number that is none passes
                raise ConfigError(
                    f"subnet asks for {word} {asked}, but the supernet holds at most {allowed}"
                )


@dataclass(frozen=True)
class NormWeights:
    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, LAYER_NORM_EPS)


@dataclass(frozen=True)
class BlockWeights:
    """Everything one block computes with, already cut to the subnet."""

    heads: int
    norm1: NormWeights
    qkv: LinearPart
    proj: LinearPart
    tables: RelativeTables
    norm2: NormWeights
    fc1: LinearPart
    fc2: LinearPart


@dataclass(frozen=True)
class StemWeights:
    patch: LinearPart  # conv weight (E, channels, p, p)
    cls_token: Tensor  # (1, 1, E)
    pos_embed: Tensor  # (1, 1 + N0, E)
    norm: NormWeights
    head: LinearPart


class AutoFormerBase(Backbone):
    """The forward, written against weights that a sub-class hands out."""

    subnet: SubnetSpec

    def _stem(self) -> StemWeights:
        raise NotImplementedError

    def _block(self, index: int) -> BlockWeights:
        raise NotImplementedError

    @in_full
    def embed(
        self, images: Tensor, needs: Needs = Needs.NONE, *, trace: bool = False
    ) -> tuple[Tokens, Taps]:
        stem, facts, images = self._stem(), self.facts, self.fitted(images)
        positions = self.placed_at_size(stem.pos_embed)
        patches = F.conv2d(images, stem.patch.weight, stem.patch.bias, stride=facts.patch_size)
        patches = patches.flatten(2).transpose(1, 2)  # (B, n, C)
        x = torch.cat([stem.cls_token.expand(images.shape[0], -1, -1), patches], dim=1) + positions
        return self.embedded(x, images, patches, lambda: positions[0, 1:], needs, trace)

    def attend(self, index: int, tokens: Tokens, needs: Needs = Needs.NONE) -> tuple[Tensor, Taps]:
        block = self._block(index)
        batch, count, _ = tokens.x.shape
        normed = block.norm1(tokens.x)
        qkv = block.qkv(normed)
        qkv = qkv.reshape(batch, count, 3, block.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)  # (B, H, N, D)
        q, v = self.with_added(index, normed, q, v)
        if not needs & Needs.NORMED:
            del normed  # attention's memory peaks without it
        out, taps = relative_attention(q, k, v, block.tables, tokens, needs)
        if needs & Needs.NORMED:
            taps = taps.having("normed", normed)
        return block.proj(out.transpose(1, 2).flatten(2)), taps

    def scout(self, index: int, tokens: Tokens, needs: Needs) -> Taps:
        block = self._block(index)
        head_dim = block.tables.key_rows.shape[1]
        return scouted(block.norm1(tokens.x), block.qkv, head_dim, needs)

    def feed(self, index: int, tokens: Tokens) -> Tensor:
        block = self._block(index)
        return block.fc2(F.gelu(block.fc1(block.norm2(tokens.x))))

    @in_full
    def token_features(self, tokens: Tokens) -> Tensor:
        return self._stem().norm(tokens.x)

    @in_full
    def readout(self, tokens: Tokens) -> Tensor:
        stem = self._stem()
        normed = tokens.with_x(self.token_features(tokens))
        if self.facts.pooling == "cls":
            return stem.head(normed.x[:, 0])
        return stem.head(pool_mean(normed.patches, tokens))

    def stem_tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Patch weight (E, channels, p, p), patch bias (E,), class token, position table."""
        stem = self._stem()
        assert stem.patch.bias is not None
        return stem.patch.weight, stem.patch.bias, stem.cls_token, stem.pos_embed


class _Block(nn.Module):
    """Weights of one stand-alone block; its own heads and hidden size."""

    def __init__(self, spec: SupernetSpec, subnet: SubnetSpec, index: int) -> None:
        super().__init__()
        width, inner = subnet.embed_dim, subnet.heads[index] * spec.head_dim
        hidden, rows = subnet.hidden(index), 2 * spec.max_offset + 2
        self.norm1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.qkv = nn.Linear(width, 3 * inner)
        self.proj = nn.Linear(inner, width)
        self.norm2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.key_rows = nn.Parameter(torch.zeros(rows, spec.head_dim))
        self.key_columns = nn.Parameter(torch.zeros(rows, spec.head_dim))
        self.value_rows = nn.Parameter(torch.zeros(rows, spec.head_dim))
        self.value_columns = nn.Parameter(torch.zeros(rows, spec.head_dim))


class AutoFormer(AutoFormerBase):
    """A stand-alone subnet with weights of its own."""

    def __init__(self, spec: SupernetSpec, subnet: SubnetSpec, *, name: str = "autoformer") -> None:
        super().__init__()
        spec.check(subnet)
        self.spec, self.subnet = spec, subnet
        self.facts = subnet_facts(spec, subnet, name=name)
        width = subnet.embed_dim
        self.patch_embed = nn.Conv2d(spec.image_shape[0], width, spec.patch_size, spec.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.facts.num_patches, width))
        self.blocks = nn.ModuleList(_Block(spec, subnet, i) for i in range(subnet.depth))
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.head = nn.Linear(width, spec.num_classes)

    def qkv_weights(self, index: int) -> tuple[Tensor, ...]:
        block = self.blocks[index]
        assert isinstance(block, _Block)
        return (block.qkv.weight,)

    def unused(self) -> Iterator[tuple[str, nn.Module]]:
        yield from ((f"blocks.{index}", block) for index, block in enumerate(self.blocks))

    def _stem(self) -> StemWeights:
        bias = self.patch_embed.bias
        assert bias is not None
        return StemWeights(
            patch=LinearPart(self.patch_embed.weight, bias),
            cls_token=self.cls_token,
            pos_embed=self.pos_embed,
            norm=NormWeights(self.norm.weight, self.norm.bias),
            head=LinearPart(self.head.weight, self.head.bias),
        )

    def _block(self, index: int) -> BlockWeights:
        block = self.blocks[index]
        assert isinstance(block, _Block)
        return BlockWeights(
            heads=self.subnet.heads[index],
            norm1=NormWeights(block.norm1.weight, block.norm1.bias),
            qkv=LinearPart(block.qkv.weight, block.qkv.bias),
            proj=LinearPart(block.proj.weight, block.proj.bias),
            tables=RelativeTables(
                block.key_rows, block.key_columns, block.value_rows, block.value_columns
            ),
            norm2=NormWeights(block.norm2.weight, block.norm2.bias),
            fc1=LinearPart(block.fc1.weight, block.fc1.bias),
            fc2=LinearPart(block.fc2.weight, block.fc2.bias),
        )

    @torch.no_grad()
    def load_from(self, view: AutoFormerBase) -> None:
        """Copy the weights a view runs on."""
        _copy(self._stem(), view._stem())
        for index in range(self.subnet.depth):
            _copy(self._block(index), view._block(index))


def _copy(into: object, out_of: object) -> None:
    """Copy every tensor of one weight dataclass into another of the same type, recursively."""
    assert dataclasses.is_dataclass(into)
    assert not isinstance(into, type)
    for item in dataclasses.fields(into):
        mine, theirs = getattr(into, item.name), getattr(out_of, item.name)
        if isinstance(mine, Tensor):
            mine.copy_(theirs)
        elif dataclasses.is_dataclass(mine):
            _copy(mine, theirs)


def subnet_facts(spec: SupernetSpec, subnet: SubnetSpec, *, name: str) -> BackboneFacts:
    """Facts of a subnet, from shapes alone."""
    width, table_rows = subnet.embed_dim, 2 * spec.max_offset + 2
    blocks = []
    for index in range(subnet.depth):
        inner, hidden = subnet.heads[index] * spec.head_dim, subnet.hidden(index)
        params = 4 * width + 3 * inner * (width + 1) + width * (inner + 1)
        params += hidden * (width + 1) + width * (hidden + 1) + 4 * table_rows * spec.head_dim
        blocks.append(
            BlockFacts(
                width=width,
                heads=subnet.heads[index],
                head_dim=spec.head_dim,
                hidden=hidden,
                params=params,
                position_macs_per_token=4 * table_rows * inner,
            )
        )
    patches = spec.grid[0] * spec.grid[1]
    patch_inputs = spec.image_shape[0] * spec.patch_size**2
    stem_params = width * (patch_inputs + 1) + width * (2 + patches)
    head_params = 2 * width + spec.num_classes * (width + 1)
    return BackboneFacts(
        name=name,
        family="autoformer",
        blocks=tuple(blocks),
        num_prefix=1,
        has_cls=True,
        cls_is_supervised=spec.pooling == "cls",
        grid=spec.grid,
        pooling=spec.pooling,
        carries_positions=True,
        explicit_attention=True,
        has_position_table=True,
        image_shape=spec.image_shape,
        patch_size=(spec.patch_size, spec.patch_size),
        num_classes=spec.num_classes,
        stem_macs=patches * width * patch_inputs,
        readout_macs=width * spec.num_classes,
        params=stem_params + head_params + sum(block.params for block in blocks),
        one_size="",
    )
