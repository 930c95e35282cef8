"""What ToFe takes frozen tokens back as: its approximator, and those of its Table IV.

Zhang, Zhang, Guo, arXiv 2507.16260. Each starts as the identity. Widths and activations are ours,
as the paper leaves them open; the shares of the cost that it gives say that the convolution has
3 by 3 taps, and that convolution and block run on all patches, as these do.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotok.facts import BackboneFacts

from .base import Counts, Option
from .primitives import gather_rows

APPROXIMATOR = Option(
    "approximator",
    "mlp",
    "what frozen tokens come back as: estimates of a bottleneck, of a 3x3 depthwise convolution, of"
    " a transformer block, or themselves (identity)",
    choices=("mlp", "identity", "depthwise", "block"),
    model_wide=True,
)


class Approximator(nn.Module):
    """Frozen tokens (..., C) as they would be after the stage they miss."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, width // 2)
        self.fc2 = nn.Linear(width // 2, width)
        nn.init.zeros_(self.fc2.weight)  # at first, tokens come back as they were
        nn.init.zeros_(self.fc2.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(F.gelu(self.fc1(x)))  # type: ignore[no-any-return]


class DepthwiseApproximator(nn.Module):
    """All patches (B, N0, C) in raster order, each with what its neighbours add."""

    def __init__(self, width: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        self.conv = nn.Conv2d(width, width, 3, padding=1, groups=width)
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        maps = x.transpose(1, 2).unflatten(2, self.grid)  # (B, C, rows, columns)
        return x + self.conv(maps).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]


class BlockApproximator(nn.Module):
    """All patches (B, N0, C) after a transformer block of their own."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        for last in (self.proj, self.fc2):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1))  # (B, n, 3, H, D)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))  # type: ignore[no-any-return]


def approximator(kind: str, facts: BackboneFacts, layer: int) -> nn.Module:
    """The one that is meant, for a stage that starts at `layer`."""
    width = facts.blocks[layer].width
    if kind == "depthwise":
        return DepthwiseApproximator(width, facts.grid)
    if kind == "block":
        heads = facts.blocks[layer].heads
        return BlockApproximator(width, heads if width % heads == 0 else 1)
    return Approximator(width) if kind == "mlp" else nn.Identity()


def estimates(module: nn.Module, patches: Tensor, frozen: Tensor) -> Tensor:
    """(B, m, C): what all patches (B, N0, C) are taken back as, at the `frozen` (B, m) ones."""
    if looks_around(module):
        return gather_rows(module(patches), frozen)
    return module(gather_rows(patches, frozen))  # type: ignore[no-any-return]


def looks_around(module: nn.Module) -> bool:
    """Whether an estimate depends on other patches, so that it takes all of them."""
    return isinstance(module, (DepthwiseApproximator, BlockApproximator))


def approximator_macs(kind: str, width: int, patches: int, frozen: Counts) -> Counts:
    """Multiply-accumulates (M,) of estimating `frozen` (M,) of the patches, more than none."""
    whole = {
        "depthwise": 9 * width * patches,
        "block": 12 * patches * width * width + 2 * patches * patches * width,
    }
    if kind in whole:
        return np.full_like(frozen, whole[kind])
    return frozen * (2 * width * (width // 2) if kind == "mlp" else 0)


def approximator_params(kind: str, facts: BackboneFacts) -> int:
    """Its parameters."""
    with torch.device("meta"):
        return sum(p.numel() for p in approximator(kind, facts, 0).parameters())
