"""LV-ViT (Jiang et al., NeurIPS 2021, arXiv 2104.10858): convolutional stem, dense second head.

A plain ViT but for four things: a stem of three 3 x 3 and 7 x 7 convolutions with BatchNorm before
the patch projection, residual branches divided by 2, attention without query, key and value biases,
and logits that add half of the class-wise largest auxiliary logit among the patch tokens to the
class token's. Module names are those of the official checkpoints.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotok.errors import CheckpointError, ConfigError
from autotok.facts import BackboneFacts, BlockFacts
from autotok.tokens import Needs, Taps, Tokens

from .attention import attention, scouted
from .base import Backbone, in_full
from .checkpoint import read_state_dict
from .family import Family, ModelRequest, no_download, register_family
from .fitting import checked_fit, load_fitting

# torch's default, as the authors' code leaves it; timm's ViTs have 1e-6
LAYER_NORM_EPS = 1e-5
# channels of the official stem; the variant of SiT has others
STEM_WIDTH = 64
AUX_SHARE = 0.5
"""Share of the patch tokens' largest auxiliary logit in the result."""


@dataclass(frozen=True)
class LVViTSpec:
    """Shapes of an LV-ViT."""

    width: int
    depth: int
    heads: int
    hidden: int
    image_shape: tuple[int, int, int] = (3, 224, 224)
    patch_size: int = 16
    num_classes: int = 1000
    skip: float = 2.0
    """What residual branches are divided by."""
    crop_pct: float = 0.9
    """Share of the resized image's sides that is left in the middle, as the authors judge it."""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return (self.image_shape[1] // self.patch_size, self.image_shape[2] // self.patch_size)


LVVIT = {
    "lvvit_s": LVViTSpec(width=384, depth=16, heads=6, hidden=1152),
    "lvvit_m": LVViTSpec(width=512, depth=20, heads=8, hidden=1536, crop_pct=1.0),
}
"""The published models by name."""


class LVViT(Backbone):
    """An LV-ViT with weights of its own."""

    def __init__(self, spec: LVViTSpec, *, name: str = "lvvit") -> None:
        super().__init__()
        self.spec = spec
        width, patches = spec.width, spec.grid[0] * spec.grid[1]
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + patches, width))
        self.patch_embed = _Stem(spec)
        self.blocks = nn.ModuleList(_Block(spec) for _ in range(spec.depth))
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.head = nn.Linear(width, spec.num_classes)
        self.aux_head = nn.Linear(width, spec.num_classes)
        for table in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(table, std=0.02)
        self.facts = _facts(self, name)

    @in_full
    def embed(
        self, images: Tensor, needs: Needs = Needs.NONE, *, trace: bool = False
    ) -> tuple[Tokens, Taps]:
        images, positions = self.fitted(images), self.placed_at_size(self.pos_embed)
        patches = self.patch_embed(images)  # (B, n, C)
        x = torch.cat([self.cls_token.expand(images.shape[0], -1, -1), patches], dim=1) + positions
        return self.embedded(x, images, patches, lambda: positions[0, 1:], needs, trace)

    def attend(self, index: int, tokens: Tokens, needs: Needs = Needs.NONE) -> tuple[Tensor, Taps]:
        block = self._block(index)
        batch, count, _ = tokens.x.shape
        normed = block.norm1(tokens.x)
        qkv = block.attn.qkv(normed).reshape(batch, count, 3, self.spec.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, H, N, D)
        q, v = self.with_added(index, normed, q, v)
        out, taps = attention(q, k, v, tokens, needs)
        if needs & Needs.NORMED:
            taps = taps.having("normed", normed)
        branch: Tensor = block.attn.proj(out.transpose(1, 2).flatten(2))
        return branch / self.spec.skip, taps

    def scout(self, index: int, tokens: Tokens, needs: Needs) -> Taps:
        block = self._block(index)
        head_dim = self.spec.width // self.spec.heads
        return scouted(block.norm1(tokens.x), block.attn.qkv, head_dim, needs)

    def feed(self, index: int, tokens: Tokens) -> Tensor:
        block = self._block(index)
        branch: Tensor = block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(tokens.x))))
        return branch / self.spec.skip

    def qkv_weights(self, index: int) -> tuple[Tensor, ...]:
        return (self._block(index).attn.qkv.weight,)

    def unused(self) -> Iterator[tuple[str, nn.Module]]:
        for index in range(len(self.blocks)):
            block = self._block(index)
            parts = {"": block, ".attn": block.attn, ".mlp": block.mlp}
            yield from ((f"blocks.{index}{name}", part) for name, part in parts.items())

    @in_full
    def token_features(self, tokens: Tokens) -> Tensor:
        normed: Tensor = self.norm(tokens.x)
        return normed

    @in_full
    def readout(self, tokens: Tokens) -> Tensor:
        x = self.token_features(tokens)
        logits: Tensor = self.head(x[:, 0])
        if tokens.num_patches == 0:
            return logits
        dense = self.aux_head(x[:, tokens.num_prefix :])  # (B, n, classes)
        live = tokens.live
        if tokens.mask is not None:
            held = tokens.mask > 0.5
            live = held if live is None else live & held
        if live is None:
            largest: Tensor = dense.amax(dim=1)
        else:
            some = live.any(dim=1, keepdim=True)  # an image may have lost every patch
            largest = dense.masked_fill(~live.unsqueeze(-1), -torch.inf).amax(dim=1)
            largest = torch.where(some, largest, 0.0)
        return logits + AUX_SHARE * largest

    def preprocessing(self) -> dict[str, Any]:
        """The authors' evaluation: ImageNet's mean and deviation, bicubic, and the model's crop."""
        return {"interpolation": "bicubic", "crop_pct": self.spec.crop_pct}

    def _block(self, index: int) -> _Block:
        block = self.blocks[index]
        assert isinstance(block, _Block)
        return block


class _Stem(nn.Module):
    """Patches of half-resolution features, (B, n, C)."""

    def __init__(self, spec: LVViTSpec) -> None:
        super().__init__()
        inner, half = STEM_WIDTH, spec.patch_size // 2
        self.conv1 = nn.Conv2d(spec.image_shape[0], inner, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, inner, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(inner)
        self.proj = nn.Conv2d(inner, spec.width, half, stride=half)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(images)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.relu(self.bn3(self.conv3(x)))
        patches: Tensor = self.proj(x).flatten(2).transpose(1, 2)
        return patches

    def macs(self, image_shape: tuple[int, int, int]) -> int:
        """Multiply-accumulates of one image."""
        pixels = (image_shape[1] // 2) * (image_shape[2] // 2)
        convs = sum(c.weight.numel() for c in (self.conv1, self.conv2, self.conv3))
        side = self.proj.weight.shape[-1]
        return pixels * convs + pixels // side**2 * self.proj.weight.numel()


class _Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)


class _Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)


class _Block(nn.Module):
    """Weights of one block, under the official names."""

    def __init__(self, spec: LVViTSpec) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(spec.width, eps=LAYER_NORM_EPS)
        self.attn = _Attention(spec.width)
        self.norm2 = nn.LayerNorm(spec.width, eps=LAYER_NORM_EPS)
        self.mlp = _Mlp(spec.width, spec.hidden)


def is_lvvit_checkpoint(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the tensors are an LV-ViT's: a dense second head and a 7 x 7 stem."""
    stem = tensors.get("patch_embed.conv1.weight")
    return "aux_head.weight" in tensors and stem is not None and stem.shape[-1:] == (7,)


def lvvit_from_state_dict(
    tensors: Mapping[str, Tensor], spec: LVViTSpec, *, name: str, origin: str = "checkpoint"
) -> LVViT:
    """An LV-ViT with the given weights; positions of another grid are resampled (bicubic).

    Raises:
        CheckpointError: the tensors are not this model's.
    """
    if not is_lvvit_checkpoint(tensors):
        raise CheckpointError(
            f"checkpoint '{origin}' does not fit backbone '{name}': it lacks LV-ViT's 'aux_head' or"
            " its 7 x 7 stem; give the official weights"
        )
    given = dict(tensors)
    if "pos_embed" in given:
        given["pos_embed"] = _resampled(given["pos_embed"], spec.grid)
    with torch.device("meta"):
        shapes = LVViT(spec, name=name).state_dict()
    fitting = checked_fit(shapes, given, origin=origin, name=name)
    return cast(LVViT, load_fitting(LVViT(spec, name=name), fitting))


def spec_for(
    tensors: Mapping[str, Tensor], spec: LVViTSpec, image_size: int | None = None
) -> LVViTSpec:
    """The named shapes with the classes of a file, and its image size unless one is asked for."""
    head, table = tensors.get("head.weight"), tensors.get("pos_embed")
    if head is not None and head.dim() == 2:
        spec = dataclasses.replace(spec, num_classes=head.shape[0])
    if image_size is None and table is not None and table.dim() == 3:
        side = math.isqrt(max(0, table.shape[1] - 1))
        if side and side * side == table.shape[1] - 1:
            image_size = side * spec.patch_size
    return sized(spec, image_size)


def sized(spec: LVViTSpec, image_size: int | None) -> LVViTSpec:
    """The same shapes for square images of another side in pixels."""
    if image_size is None:
        return spec
    if image_size < 1 or image_size % spec.patch_size:
        raise ConfigError(
            f"image size {image_size} does not divide into patches of {spec.patch_size} pixels;"
            f" give a multiple of {spec.patch_size}"
        )
    return dataclasses.replace(spec, image_shape=(spec.image_shape[0], image_size, image_size))


def _resampled(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """(1, 1 + rows * columns, C) position table for `grid`, the class token's row kept."""
    if table.dim() != 3 or table.shape[1] < 2:
        return table
    side = round((table.shape[1] - 1) ** 0.5)
    if (side, side) == grid or side * side != table.shape[1] - 1:
        return table
    patches = table[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, size=grid, mode="bicubic", align_corners=False)
    return torch.cat([table[:, :1], patches.flatten(2).transpose(1, 2)], dim=1)


@register_family("lvvit")
class LVViTFamily(Family):
    """The published LV-ViTs by name."""

    about = "LV-ViT-S and -M: convolutional stem, dense second head"
    ask = "`lvvit_s`, `lvvit_m`, with `--checkpoint`"
    resizes = True

    def names(self) -> Sequence[str]:
        return tuple(LVVIT)

    def matches(self, asked: str | nn.Module) -> bool:
        return asked in self.names()

    def load(self, asked: ModelRequest) -> LVViT:
        sized(LVVIT[asked.name], asked.image_size)  # told before any file is read
        if asked.checkpoint is None:
            raise no_download(asked.name, "checkpoint (TokenLabeling release)")
        tensors = read_state_dict(asked.checkpoint)
        spec = spec_for(tensors, LVVIT[asked.name], asked.image_size)
        origin = str(asked.checkpoint)
        return lvvit_from_state_dict(tensors, spec, name=asked.name, origin=origin)

    def structure(self, asked: ModelRequest, *, device: str = "meta") -> LVViT:
        with torch.device(device):
            return LVViT(sized(LVVIT[asked.name], asked.image_size), name=asked.name).eval()


def _facts(model: LVViT, name: str) -> BackboneFacts:
    spec = model.spec
    block = BlockFacts(
        width=spec.width,
        heads=spec.heads,
        head_dim=spec.width // spec.heads,
        hidden=spec.hidden,
        params=sum(p.numel() for p in model.blocks[0].parameters()),
    )
    return BackboneFacts(
        name=name,
        family="lvvit",
        blocks=(block,) * spec.depth,
        num_prefix=1,
        has_cls=True,
        cls_is_supervised=True,
        grid=spec.grid,
        pooling="cls+max_aux",
        carries_positions=False,
        has_position_table=True,
        image_shape=spec.image_shape,
        patch_size=(spec.patch_size, spec.patch_size),
        num_classes=spec.num_classes,
        stem_macs=model.patch_embed.macs(spec.image_shape),
        readout_macs=0,
        params=sum(p.numel() for p in model.parameters()),
        one_size="",
        # one head for the class token, one for every patch token, of the same size
        readout_macs_per_token=spec.width * spec.num_classes,
    )
