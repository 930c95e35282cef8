"""The shared ways to make fewer tokens: `select`, `merge`, `pool`, `park`, `recall`.

Every reduction is said as kept order, assignment and weights. Here x, size, coords, source, mask and
extras always move together, and here alone the combining kernel is chosen.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from autotok.tokens import Extra, Parked, Tokens

__all__ = ["gather_rows", "merge", "park", "pool", "recall", "select"]


def gather_rows(values: Tensor, index: Tensor, axis: int = 1) -> Tensor:
    """Rows `index` (B, k) of `values` along `axis`, per image: the result has k in that place."""
    shape = [1] * values.dim()
    shape[0], shape[axis] = index.shape
    target = list(values.shape)
    target[axis] = index.shape[1]
    return values.gather(axis, index.reshape(shape).expand(target))


def select(tokens: Tokens, index: Tensor) -> Tokens:
    """Keep the patch tokens at `index` (B, k), in that order; the rest is dropped."""
    patches = gather_rows(tokens.patches, index)
    return dataclasses.replace(
        tokens,
        x=torch.cat([tokens.prefix, patches], dim=1),
        raster=False,
        size=_rows(tokens.size, index),
        coords=_rows(tokens.coords, index),
        source=_rows(tokens.source, index),
        mask=_rows(tokens.mask, index),
        extras={name: _extra_rows(extra, index) for name, extra in tokens.extras.items()},
    )


def merge(
    tokens: Tokens,
    *,
    keep: Tensor,
    gone: Tensor,
    target: Tensor,
    weights: Tensor | None = None,
    track_size: bool = True,
) -> Tokens:
    """Fold the patch tokens at `gone` (B, r) into the kept ones.

    `keep` (B, k) lists the survivors in output order; `target` (B, r) says for each gone token which
    *output* position takes it in. The result is the weighted mean of a survivor and everything folded
    into it; `weights` (B, n) defaults to the token sizes. Sizes add up (unless `track_size` is false),
    sources unite, coordinates stay those of the survivor.
    """
    kept = select(tokens, keep)
    weights = tokens.sizes() if weights is None else weights
    patches = tokens.patches
    w_keep, w_gone = gather_rows(weights, keep), gather_rows(weights, gone)
    total = w_keep.scatter_add(1, target, w_gone).unsqueeze(-1)
    column = target.unsqueeze(-1)
    folded = gather_rows(patches, gone) * w_gone.unsqueeze(-1)
    summed = (kept.patches * w_keep.unsqueeze(-1)).scatter_add(
        1, column.expand(-1, -1, patches.shape[-1]), folded
    )
    size = tokens.size
    if track_size:
        sizes = tokens.sizes()
        size = gather_rows(sizes, keep).scatter_add(1, target, gather_rows(sizes, gone))
    elif size is not None:
        size = gather_rows(size, keep)
    source = kept.source
    if tokens.source is not None and source is not None:
        moved = gather_rows(tokens.source, gone).to(torch.uint8)
        source = (
            source.to(torch.uint8).scatter_add(1, column.expand(moved.shape), moved).to(torch.bool)
        )
    return dataclasses.replace(
        kept, x=torch.cat([tokens.prefix, summed / total], dim=1), size=size, source=source
    )


def pool(tokens: Tokens, weights: Tensor, *, track_size: bool = False) -> Tokens:
    """Re-express the patches as K weighted sums: `weights` (B, K, n), used as given.

    Coordinates are the expected ones under each row's normalised weights, rounded to the grid. With
    `track_size` the tokens' sizes are shared out by column-normalised weights, so their sum is kept.
    """
    patches = weights @ tokens.patches
    rows = weights / weights.sum(dim=-1, keepdim=True).clamp_min(1e-12)
    coords = None
    if tokens.coords is not None:
        coords = (rows @ tokens.coords.to(rows.dtype)).round().to(torch.int64)
    size = None
    if track_size:
        columns = weights / weights.sum(dim=1, keepdim=True).clamp_min(1e-12)
        size = (columns @ tokens.sizes().unsqueeze(-1)).squeeze(-1)
    source = None
    if tokens.source is not None:
        held = (weights > 0).to(torch.float32) @ tokens.source.to(torch.float32)
        source = held > 0
    return dataclasses.replace(
        tokens,
        x=torch.cat([tokens.prefix, patches], dim=1),
        raster=False,
        size=size,
        coords=coords,
        source=source,
        mask=None,
        extras={},
    )


def park(tokens: Tokens, index: Tensor, rest: Tensor) -> Tokens:
    """Keep the patches at `index` (B, k); those at `rest` (B, m) wait, frozen, for `recall`.

    Needs `tokens.coords`, so that parked tokens know where they came from (declare `Needs.GRID`).
    """
    assert tokens.coords is not None, "parking needs coordinates: declare Needs.GRID"
    waiting = Parked(
        x=gather_rows(tokens.patches, rest),
        coords=gather_rows(tokens.coords, rest),
        size=_rows(tokens.size, rest),
        source=_rows(tokens.source, rest),
    )
    return dataclasses.replace(select(tokens, index), parked=(*tokens.parked, waiting))


def recall(tokens: Tokens) -> Tokens:
    """Put every parked token back and restore raster order of the original grid."""
    if not tokens.parked:
        return tokens
    assert tokens.coords is not None
    x = torch.cat([tokens.patches, *(p.x for p in tokens.parked)], dim=1)
    coords = torch.cat([tokens.coords, *(p.coords for p in tokens.parked)], dim=1)
    order = (coords[..., 0] * tokens.grid[1] + coords[..., 1]).argsort(dim=1)
    size = source = None
    if tokens.size is not None or any(p.size is not None for p in tokens.parked):
        ones = [p.size if p.size is not None else p.x.new_ones(p.x.shape[:2]) for p in tokens.parked]
        size = gather_rows(torch.cat([tokens.sizes(), *ones], dim=1), order)
    if tokens.source is not None:
        held = [p.source for p in tokens.parked if p.source is not None]
        source = gather_rows(torch.cat([tokens.source, *held], dim=1), order)
    full = x.shape[1] == tokens.grid[0] * tokens.grid[1]
    return dataclasses.replace(
        tokens,
        x=torch.cat([tokens.prefix, gather_rows(x, order)], dim=1),
        raster=full,
        size=size,
        coords=gather_rows(coords, order),
        source=source,
        mask=None,
        parked=(),
        extras={},
    )


def _rows(values: Tensor | None, index: Tensor) -> Tensor | None:
    return None if values is None else gather_rows(values, index)


def _extra_rows(extra: Extra, index: Tensor) -> Extra:
    values = extra.values
    for axis in extra.token_axes:
        values = gather_rows(values, index, axis)
    return Extra(values, extra.token_axes)
