"""What flows between backbone and method: `Tokens`, the declared `Needs`, the `Taps` given.

Shapes: B batch, P prefix tokens, n live patch tokens, N = P + n, C channels, H heads, D head
width, N0 the image's initial patch tokens. Prefix tokens (class, distillation, registers)
always stand first and are never reduced.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class Needs(enum.Flag):
    """Intermediate values a method asks of the backbone; each costs nothing unless asked for."""

    NONE = 0
    KEYS = enum.auto()
    """Attention keys of the block, (B, H, N, D), after any key norm. Free."""
    QUERIES = enum.auto()
    """Attention queries of the block, (B, H, N, D), after any query norm, unscaled. Free."""
    VALUES = enum.auto()
    """Attention values of the block, (B, H, N, D). Free."""
    CLS_ATTENTION = enum.auto()
    """Softmaxed attention of the class token's row, (B, H, N): one extra vector-matrix product."""
    COLUMN_MEANS = enum.auto()
    """Attention each token receives, averaged over all query rows, (B, H, N). Needs the map."""
    ATTENTION = enum.auto()
    """The whole softmaxed map, (B, H, N, N). Turns fused attention off in that block."""
    GRID = enum.auto()
    """Original grid positions: `Tokens.coords` is kept even if the backbone would not."""
    EMBEDDING = enum.auto()
    """Patch embeddings before the position table was added, (B, n, C), and the table, (n, C)."""
    IMAGE = enum.auto()
    """The normalised input image, (B, channels, height, width)."""
    NORMED = enum.auto()
    """What the block's attention reads: its first norm's output, (B, N, C). Free."""
    CLS_QUERY = enum.auto()
    """The class token's query alone, (B, H, 1, D), after any query norm, unscaled. Free."""
    HEAD_OUTPUTS = enum.auto()
    """Attention's output per head before the projection, (B, H, N, D). Free."""


NEEDS_MAP = Needs.ATTENTION | Needs.COLUMN_MEANS


class Taps:
    """Intermediate values, exactly those that were asked for.

    Reading one that was not declared in the method's `needs` is a bug of the method and raises
    `AttributeError`, so that a declaration can be trusted.
    """

    keys: Tensor
    """(B, H, N, D), after any key norm, before scaling."""
    queries: Tensor
    """(B, H, N, D), after any query norm, unscaled."""
    values: Tensor
    """(B, H, N, D)."""
    cls_attention: Tensor
    """(B, H, N), rows sum to 1 over N; column 0 is the class token itself."""
    column_means: Tensor
    """(B, H, N), mean over query rows of the softmaxed map; sums to 1 over N."""
    attention: Tensor
    """(B, H, N, N), rows sum to 1."""
    normed: Tensor
    """(B, N, C), the tokens after the block's first norm."""
    cls_query: Tensor
    """(B, H, 1, D), the query of token 0, unscaled."""
    head_outputs: Tensor
    """(B, H, N, D), what each head's attention gives, before the projection."""
    patch_embedding: Tensor
    """(B, n, C), before the position table was added."""
    position_table: Tensor
    """(n, C), the absolute position rows of the patch tokens."""
    image: Tensor
    """(B, channels, height, width), normalised."""
    image_scores: Tensor | None = None
    """What the method's own `look` gave; None where it was not called."""

    def __init__(self, values: Mapping[str, Tensor] | None = None) -> None:
        for name, value in (values or {}).items():
            setattr(self, name, value)

    def __getattr__(self, name: str) -> Tensor:
        raise AttributeError(f"tap '{name}' was not declared in the method's needs")

    @property
    def mean_keys(self) -> Tensor:
        """Keys averaged over heads, (B, N, D): the metric of ToMe and its relatives."""
        return self.keys.mean(dim=1)

    def names(self) -> tuple[str, ...]:
        """Names of the values that were asked for."""
        return tuple(vars(self))

    def having(self, name: str, value: Tensor) -> Taps:
        """These taps and one more."""
        return Taps({**vars(self), name: value})

    def widened(self) -> Taps:
        """These taps with at least the bits of float32."""
        kinds = (torch.float16, torch.bfloat16)
        return Taps({k: v.float() if v.dtype in kinds else v for k, v in vars(self).items()})


@dataclass(frozen=True)
class Extra:
    """A named array that has to move with the tokens.

    `values` has the batch first; `token_axes` lists the axes that run over the n patch tokens: (1,)
    for a per-token array (B, n, ...), (1, 2) for a pairwise one (B, n, n, ...).
    """

    values: Tensor
    token_axes: tuple[int, ...] = (1,)


@dataclass(frozen=True)
class Parked:
    """Patch tokens taken out for now, with everything needed to put them back.

    `tokens.x` holds patch tokens only; `tokens.coords` say where they came from.
    """

    x: Tensor  # (B, m, C)
    coords: Tensor  # (B, m, 2)
    size: Tensor | None = None  # (B, m)
    source: Tensor | None = None  # (B, m, N0)


@dataclass(frozen=True)
class AttentionRule:
    """How softmax departs from the plain one; travels with the tokens it is about."""

    diagonal: bool = True
    """With `Tokens.mask`: a dropped token still sees itself."""
    epsilon: float = 1e-6
    """With `Tokens.mask`: added to numerator (over N) and denominator."""
    sparsity: float = 1.0
    """Share of each head's map that stays; the smallest entries become 0 (GTP)."""


PLAIN_RULE = AttentionRule()


@dataclass(frozen=True)
class Tokens:
    """The live tokens and every fact that travels with them.

    Never changed in place: methods make new ones through `autotok.methods.primitives`, which move
    all fields together.
    """

    x: Tensor  # (B, P + n, C)
    num_prefix: int
    grid: tuple[int, int]
    """Rows and columns of the original patch grid; N0 = rows * columns."""
    raster: bool = True
    """All N0 patches are live, in raster order: the backbone may use the grid's structure."""
    size: Tensor | None = None
    """(B, n), how many original patches a token stands for; None means 1 each."""
    coords: Tensor | None = None
    """(B, n, 2) int64, row and column in the original grid; None where nobody asked."""
    source: Tensor | None = None
    """(B, n, N0) bool, which original patches a token holds, each in one token at most; None where
    nobody asked."""
    mask: Tensor | None = None
    """(B, n), 1 live and 0 dropped, soft or hard, during masked training; None means all live."""
    live: Tensor | None = None
    """(B, n) bool; False is padding of an image that kept fewer tokens than its batch neighbours.
    Live ones come first. None means all live; a batch of one has no padding."""
    rule: AttentionRule = field(default_factory=lambda: PLAIN_RULE)  # torch.compile knows no other
    """How the mask enters attention, and how sparse attention is."""
    parked: tuple[Parked, ...] = ()
    """Tokens frozen for now, one entry per time something was parked; `recall` empties it."""
    extras: Mapping[str, Extra] = field(default_factory=dict)
    shared: Tensor | None = None
    """(H, P + N0, P + N0), what places add to the logits of every block: the backbone makes it
    once, with the embedding, and no method touches it. None where blocks share nothing."""
    padded: tuple[Tensor, Tensor] | None = None
    """`size` as a merge left it, and a (B, P + n) one with ones in front, of which that is a view;
    void once `size` is another. See `whole_size`."""

    @property
    def num_patches(self) -> int:
        """Live patch tokens n."""
        return self.x.shape[1] - self.num_prefix

    @property
    def patches(self) -> Tensor:
        """(B, n, C)."""
        return self.x[:, self.num_prefix :]

    @property
    def prefix(self) -> Tensor:
        """(B, P, C)."""
        return self.x[:, : self.num_prefix]

    def sizes(self) -> Tensor:
        """(B, n); ones where no size was set."""
        if self.size is not None:
            return self.size
        return self.x.new_ones(self.x.shape[0], self.num_patches)

    @property
    def present(self) -> Tensor | None:
        """(B, n) bool: neither padding nor masked out; None where nothing is either."""
        if self.mask is None:
            return self.live
        unmasked = self.mask > 0.5
        return unmasked if self.live is None else unmasked & self.live

    def whole_size(self) -> Tensor | None:
        """(B, P + n), sizes with ones for prefix tokens in front; None where no size was set."""
        if self.size is None:
            return None
        if self.padded is not None and self.padded[0] is self.size:
            return self.padded[1]
        return F.pad(self.size, (self.num_prefix, 0), value=1.0)

    def with_x(self, x: Tensor) -> Tokens:
        """The same tokens with new features of the same count."""
        return dataclasses.replace(self, x=x)


@dataclass(frozen=True)
class StemParts:
    """How a backbone makes tokens of an image, part by part."""

    patches: Callable[[Tensor], Tensor]
    """(B, n, C) of images (B, channels, H, W) of any whole number of patches, no positions."""
    prefix: Tensor
    """(1, P, C), no positions."""
    positions: Tensor
    """(1, P + N0, C)."""
    enter: Callable[[Tensor], Tensor]
    """What enters block 0 of tokens with their positions (B, N, C)."""
    norm: Callable[[Tensor], Tensor]
    """The read-out's own norm."""


def grid_coords(grid: tuple[int, int], *, device: torch.device | None = None) -> Tensor:
    """(1, rows * columns, 2) int64, the raster-order positions of a full grid."""
    rows, columns = grid
    index = torch.arange(rows * columns, device=device)
    return torch.stack(
        [torch.div(index, columns, rounding_mode="floor"), index % columns], dim=-1
    ).unsqueeze(0)


def naive_coords(count: int, *, device: torch.device | None = None) -> Tensor:
    """(1, count, 2) int64: positions rebuilt from the sequence length, as AutoFormer's code does.

    Right for a full square grid only; after any removal the offsets are wrong. For studies of
    exactly that (`positions: naive`).
    """
    side = max(1, int(count**0.5))
    index = torch.arange(count, device=device)
    return torch.stack(
        [torch.div(index, side, rounding_mode="floor"), index % side], dim=-1
    ).unsqueeze(0)


def traced(tokens: Tokens) -> Tokens:
    """All patches of a grid, each holding itself."""
    eye = torch.eye(tokens.num_patches, dtype=torch.bool, device=tokens.x.device)
    return dataclasses.replace(tokens, source=eye.expand(tokens.x.shape[0], -1, -1))


def each_changed(tokens: Tokens, change: Callable[[str, Tensor], Tensor]) -> Tokens:
    """The tokens with what `change` makes of every tensor, which it is given with a name for it;
    but for `shared`, which is no token's."""

    def of(name: str, value: Tensor | None) -> Tensor | None:
        return None if value is None else change(name, value)

    names = ("x", "size", "coords", "source", "mask", "live")
    own: dict[str, Any] = {name: of(name, getattr(tokens, name)) for name in names}
    return dataclasses.replace(
        tokens,
        **own,
        padded=None,
        parked=tuple(
            Parked(
                change(f"parked{number}", parked.x),
                change(f"parked{number}_coords", parked.coords),
                of(f"parked{number}_size", parked.size),
                of(f"parked{number}_source", parked.source),
            )
            for number, parked in enumerate(tokens.parked)
        ),
        extras={
            name: dataclasses.replace(extra, values=change(f"extra_{name}", extra.values))
            for name, extra in tokens.extras.items()
        },
    )


def exactly(x: Tensor) -> AbstractContextManager[object]:
    """The context in which what computes on `x` does so in the format of `x`, under any autocast.

    What is embedded, read out or chosen costs little, and 8 bits of mantissa tell too little there:
    bfloat16 changed the demo's class of 2 images in 100 with them in it, of none without, and made
    ToMe's KL 0.07 too large instead of 0.0001. In training other tokens would merge than in use.
    """
    kind = x.device.type
    low = kind in ("cpu", "cuda", "mps") and torch.is_autocast_enabled(kind)
    if not low:
        return nullcontext()
    return torch.autocast(kind, enabled=False)


def is_watched() -> bool:
    """Somebody writes the operators down (`torch.compile`, tracing, export), and needs few."""
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
