"""The shared ways to make fewer tokens: `select`, `fuse`, `pool`, `park`, `recall`; see `merging`.

Every reduction is said as kept order, assignment and weights. Here x, size, coords, source, mask
and extras always move together, and here alone the combining kernel is chosen. Rows are fetched
with one `index_select` over all images' rows laid end to end: on CPU it copies whole rows and is
40 times faster than `gather` with an expanded index (ViT-S, batch 16: 0.15 ms against 5.4 ms).
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotok.tokens import Extra, Parked, Tokens, each_changed, is_watched

from .row_index import flat_rows

FEW = 8  # numbers in a row, up to which `gather` is as fast as `index_select`


def gather_rows(
    values: Tensor, index: Tensor, axis: int = 1, *, skip: int = 0, step: int = 1
) -> Tensor:
    """Rows `index` (B, k) of `values` along `axis`, per image: the result has k in that place.

    With `skip` and `step` (along axis 1 only) the rows are `skip + step * index`.
    """
    if axis == 1 and values.dim() > 2 and values.shape[-1] > FEW:
        if index.shape[0] == 1:
            return values[0, skip::step].index_select(0, index[0]).unsqueeze(0)
        flat = flat_rows(index, values.shape[1], skip=skip, step=step).reshape(-1)
        rows = values.reshape(-1, *values.shape[2:]).index_select(0, flat)
        return rows.view(*index.shape, *values.shape[2:])
    if axis == 1:
        values = values[:, skip::step]
    shape = [1] * values.dim()
    shape[0], shape[axis] = index.shape
    target = list(values.shape)
    target[axis] = index.shape[1]
    return values.gather(axis, index.reshape(shape).expand(target))


def diagonal(count: int, device: torch.device) -> Tensor:
    """(count, count) bool: true for each row itself.

    Not `torch.eye`: below operator set 18 it is exported to what ONNX Runtime lacks for bool.
    """
    place = torch.arange(count, device=device)
    return place == place.unsqueeze(1)


def select(tokens: Tokens, index: Tensor) -> Tokens:
    """Keep the patch tokens at `index` (B, k), in that order; the rest is dropped."""
    x = _joined(tokens.x, tokens.num_prefix, gather_rows(tokens.x, index, skip=tokens.num_prefix))
    return moved(tokens, x, index, _rows(tokens.size, index))


def select_ragged(
    tokens: Tokens,
    keep: Tensor,
    *,
    nominal: int,
    order: Tensor | None = None,
    fixed: bool = False,
) -> Tokens:
    """Keep the patch tokens where `keep` (B, n) is true, as many as each image has of them.

    They stay in their order, or follow `order` (B, n), a permutation. Images that keep fewer than
    the one that keeps most are padded behind their own (`Tokens.live`); one image alone never is.
    With `fixed` each is padded to `nominal`, so that shapes are the same for all images. Where
    nothing is computed (the meta device) `nominal` tokens stay.
    """
    if keep.is_meta:
        return select(tokens, torch.zeros(keep.shape[0], nominal, dtype=torch.int64, device="meta"))
    if tokens.live is not None:
        keep = keep & tokens.live
    chosen = keep if order is None else keep.gather(1, order)
    counts = chosen.sum(dim=1)  # (B,)
    longest = nominal if fixed else int(counts.max())
    place = torch.arange(keep.shape[1], device=keep.device)
    index = (place + keep.shape[1] * ~chosen).argsort(dim=1)[:, :longest]  # no ties, so any sort
    out = select(tokens, index if order is None else order.gather(1, index))
    live = torch.arange(longest, device=keep.device) < counts.unsqueeze(1)
    if not fixed and bool(live.all()):
        return dataclasses.replace(out, live=None)
    source = None if out.source is None else out.source & live.unsqueeze(-1)
    return dataclasses.replace(out, live=live, source=source)


def at_least_one(keep: Tensor, score: Tensor) -> Tensor:
    """`keep` (B, n) bool, with the best-scoring token where an image would keep none."""
    best = torch.zeros_like(keep).scatter(1, score.argmax(dim=1, keepdim=True), True)
    return torch.where(keep.any(dim=1, keepdim=True), keep, best)


def fuse(tokens: Tokens, index: Tensor, weights: Tensor) -> Tokens:
    """Keep all but the last of the patch tokens at `index` (B, k); fold everything else into one.

    The fused token stands last: the sum of all other patch tokens under `weights` (B, n), used as
    given. It has the coordinates, mask and extras of the last token of `index`; its source is the
    union, and its size (where sizes are tracked) the sum, of what it holds.
    """
    best = index[:, :-1]
    rest = weights.scatter(1, best, 0.0).unsqueeze(1)  # (B, 1, n)
    kept = select(tokens, index)
    x = torch.cat([kept.x[:, :-1], rest @ tokens.patches], dim=1)
    size, source = kept.size, kept.source
    if size is None and source is None:
        return kept.with_x(x)
    held = torch.ones_like(weights).scatter(1, best, 0.0).unsqueeze(1)
    if tokens.size is not None and size is not None:
        size = torch.cat([size[:, :-1], (held[:, 0] * tokens.size).sum(1, keepdim=True)], dim=1)
    if tokens.source is not None and source is not None:
        union = (held.transpose(1, 2) > 0) & tokens.source
        source = torch.cat([source[:, :-1], union.any(dim=1, keepdim=True)], dim=1)
    return dataclasses.replace(kept, x=x, size=size, source=source)


def select_images(tokens: Tokens, rows: Tensor) -> Tokens:
    """The images at `rows` (k,) alone, with everything that travels with their tokens."""
    return each_changed(tokens, lambda _, values: values[rows])


def falling(x: Tensor) -> Tensor:
    """(B, n) indices of `x` (B, n) from the largest on; of equal ones the first comes first, but
    where operators are written down: ONNX and ExecuTorch have no stable sort."""
    if is_watched():
        return x.argsort(dim=-1, descending=True)
    return x.argsort(dim=-1, descending=True, stable=True)


def above_zero(least: float, like: Tensor) -> float:
    """`least`, or the smallest normal number of `like`'s format where that is larger: 1e-8 is 0 in
    float16, and keeps no divisor from it."""
    return max(least, torch.finfo(like.dtype).tiny)


def directions(x: Tensor) -> Tensor:
    """`x` (..., C) with rows of length 1; rows of zeros stay zeros, in any format."""
    return F.normalize(x, dim=-1, eps=above_zero(1e-12, x))


def pool(tokens: Tokens, weights: Tensor, *, track_size: bool = False) -> Tokens:
    """Re-express the patches as K weighted sums: `weights` (B, K, n), used as given.

    Coordinates are the expected ones under each row's normalised weights, rounded to the grid. A
    patch counts to the source of the row that weighs it most.
    With `track_size` the tokens' sizes are shared out by column-normalised weights, so their sum
    is kept.
    """
    patches = weights @ tokens.patches
    least = above_zero(1e-12, weights)
    rows = weights / weights.sum(dim=-1, keepdim=True).clamp_min(least)
    coords = None
    if tokens.coords is not None:
        own = tokens.coords.to(torch.float32).unsqueeze(1)  # (B, 1, n, 2)
        coords = _to_the_grid((rows.to(torch.float32).unsqueeze(-1) * own).sum(dim=2))
    size = None
    if track_size:
        columns = weights / weights.sum(dim=1, keepdim=True).clamp_min(least)
        size = (columns * tokens.sizes().unsqueeze(1)).sum(dim=-1)
    source = None
    if tokens.source is not None:
        most = F.one_hot(weights.argmax(dim=1), weights.shape[1]).transpose(1, 2)  # (B, K, n)
        source = most.to(torch.float32) @ tokens.source.to(torch.float32) > 0
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


def _to_the_grid(places: Tensor) -> Tensor:
    """Places (B, K, 2) rounded to whole ones, a half to the even one.

    Means of a few whole numbers are often halves, and runtimes sum in different orders: to
    thousandths first, or the order of a sum decides where a token stands.
    """
    return ((places * 1024.0).round() / 1024.0).round().to(torch.int64)


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
        ones = [
            p.size if p.size is not None else p.x.new_ones(p.x.shape[:2]) for p in tokens.parked
        ]
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


def _joined(values: Tensor, prefix: int, rows: Tensor) -> Tensor:
    """The first `prefix` rows of `values`, then `rows`."""
    return torch.cat([values[:, :prefix], rows], dim=1) if prefix else rows


def moved(tokens: Tokens, x: Tensor, index: Tensor, size: Tensor | None) -> Tokens:
    """`tokens` with new features and sizes; every other fact is that of the patches at `index`."""
    return dataclasses.replace(
        tokens,
        x=x,
        raster=False,
        size=size,
        coords=_rows(tokens.coords, index),
        source=_rows(tokens.source, index),
        mask=_rows(tokens.mask, index),
        live=_rows(tokens.live, index),
        extras={name: _extra_rows(extra, index) for name, extra in tokens.extras.items()},
    )


def start_layers(module: nn.Module) -> None:
    """Weights of its Linears and convolutions drawn as ViTs' authors do, biases 0."""
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Conv2d)):
            nn.init.trunc_normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def confidence(logits: Tensor) -> Tensor:
    """(...,) largest probability of logits (..., K), in float32."""
    return logits.float().softmax(dim=-1).amax(dim=-1)
