"""Folding tokens into others: `merge` for any assignment, `merge_pairs` for even into odd tokens.

Both put every row once where it belongs, survivors first and those that go last, add the last ones
to their targets in place, and divide. Sizes take the same way, with ones for prefix tokens, so that
attention needs no more than their logarithm. Nothing is copied twice.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional as F

from autotok.tokens import Tokens

from .matching import Pairs
from .primitives import gather_rows, moved
from .row_index import add_rows, fixed_rows, summed_up


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

    `keep` (B, k) lists the survivors in output order; `target` (B, r) says for each gone token
    which *output* position takes it in. The result is the weighted mean of a survivor and
    everything folded into it; `weights` (B, n) defaults to the token sizes. Sizes add up (unless
    `track_size` is false), sources unite, coordinates stay those of the survivor.
    """
    order = torch.cat([keep, gone], dim=1)
    return merge_ordered(tokens, order, target, weights=weights, track_size=track_size)


def merge_ordered(
    tokens: Tokens,
    order: Tensor,
    target: Tensor,
    *,
    first: int = 0,
    weights: Tensor | None = None,
    track_size: bool = True,
) -> Tokens:
    """`merge` with `order` (B, n) for kept tokens and, behind them, gone ones; `first + target`."""
    prefix, kept = tokens.num_prefix, order.shape[1] - target.shape[1]
    start, heads, _ = fixed_rows(order, tokens.x.shape[1], prefix=prefix, start=prefix)
    rows = torch.cat([heads, start + order], dim=1)
    sizes = tokens.whole_size()
    shares = sizes if weights is None else F.pad(weights, (prefix, 0), value=1.0)
    x, total = _folded(tokens.x, shares, rows, target, prefix + first)
    index, gone = order[:, :kept], order[:, kept:]
    if weights is not None and track_size:
        total = _gathered(_given(sizes, tokens.x), rows)
        total = _summed(total, target, prefix + first)
    elif not track_size:
        out = moved(tokens, x, index, None if tokens.size is None else tokens.size.gather(1, index))
        return _united(tokens, out, gone, target + first)
    out = _sized(moved(tokens, x, index, None), total)
    return _united(tokens, out, gone, target + first)


def merge_pairs(tokens: Tokens, pairs: Pairs, *, track_size: bool = True) -> Tokens:
    """Fold the paired tokens into their partners: `merge` for a split into even and odd tokens.

    With `track_size` means are weighted by size and sizes add up; without, all tokens weigh the
    same and sizes are forgotten.
    """
    prefix, stay = tokens.num_prefix, pairs.order.shape[1] - pairs.removed
    rows = _pair_rows(pairs, prefix)
    shares = tokens.whole_size() if track_size else None
    x, total = _folded(tokens.x, shares, rows, pairs.partner, prefix + stay)
    out = dataclasses.replace(tokens, x=x, raster=False, size=None)
    if _carries_more(tokens):
        out = moved(tokens, x, _positions(rows, pairs, prefix), None)
    if track_size:
        out = _sized(out, total)
    return out if tokens.source is None else _united(tokens, out, pairs.gone, pairs.target)


def drop_pairs(tokens: Tokens, pairs: Pairs) -> Tokens:
    """Drop the tokens that were paired with a partner; the order is that of `merge_pairs`."""
    rows = _pair_rows(pairs, tokens.num_prefix, gone=False)
    x = _gathered(tokens.x, rows)
    if tokens.size is None and not _carries_more(tokens):
        return dataclasses.replace(tokens, x=x, raster=False)
    index = _positions(rows, pairs, tokens.num_prefix)
    size = None if tokens.size is None else tokens.size.gather(1, index)
    return moved(tokens, x, index, size)


def _pair_rows(pairs: Pairs, prefix: int, *, gone: bool = True) -> Tensor:
    """(B, N) rows of all images: prefix, even tokens that stay, odd ones, then those that go."""
    start, heads, odd = fixed_rows(
        pairs.order,
        prefix + pairs.count,
        prefix=prefix,
        start=prefix + pairs.first,
        odd=prefix + 1 - pairs.first,
    )
    even = torch.add(start, pairs.order, alpha=2)
    stay = even[:, pairs.removed :]
    if pairs.sorted:
        stay = stay.sort(dim=1).values
    last = [even[:, : pairs.removed]] if gone else []
    return torch.cat([heads, stay, odd, *last], dim=1)


def _positions(rows: Tensor, pairs: Pairs, prefix: int) -> Tensor:
    """(B, k) patch positions of the survivors among `rows`."""
    kept = rows[:, prefix : prefix + pairs.count - pairs.removed]
    return kept - fixed_rows(rows, prefix + pairs.count, prefix=prefix, start=prefix)[0]


def _given(sizes: Tensor | None, x: Tensor) -> Tensor:
    return x.new_ones(x.shape[:2]) if sizes is None else sizes


def _gathered(values: Tensor, rows: Tensor) -> Tensor:
    """Rows (B, k) of `values` (B, N, ...), said over all images."""
    flat = values.reshape(-1, *values.shape[2:])
    return flat.index_select(0, rows.reshape(-1)).view(*rows.shape, *values.shape[2:])


def _folded(
    x: Tensor, shares: Tensor | None, rows: Tensor, target: Tensor, first: int
) -> tuple[Tensor, Tensor]:
    """Means (B, K, C) of the first K of `rows` with what goes to them, and their total shares.

    The last rows go, each to `first + target`; tokens weigh their `shares` (B, N), 1 if None.
    """
    wide = x.float() if x.dtype is torch.float16 else x  # sums may leave its range, means do not
    heavy = wide if shares is None else wide * shares.unsqueeze(-1)
    sums, total = _gathered(heavy, rows), _gathered(_given(shares, x), rows)
    del heavy, wide
    kept = rows.shape[1] - target.shape[1]
    if torch.onnx.is_in_onnx_export():
        sums = summed_up(sums, target, first)
    else:
        add_rows(sums[:, first:kept], target, sums[:, kept:])
    total = _summed(total, target, first)
    return (sums[:, :kept] / total.unsqueeze(-1)).to(x.dtype), total


def _summed(values: Tensor, target: Tensor, first: int) -> Tensor:
    """The first K of `values` (B, N), a fresh tensor; the last are added at `first + target`."""
    if torch.onnx.is_in_onnx_export():
        return summed_up(values.unsqueeze(-1), target, first).squeeze(-1)
    kept = values.shape[1] - target.shape[1]
    values[:, first:kept].scatter_add_(1, target, values[:, kept:])
    return values[:, :kept]


def _sized(tokens: Tokens, sizes: Tensor) -> Tokens:
    """The tokens with sizes, given with ones for prefix tokens in front."""
    size = sizes[:, tokens.num_prefix :]
    return dataclasses.replace(tokens, size=size, padded=(size, sizes))


def _carries_more(tokens: Tokens) -> bool:
    """Whether anything but features and sizes has to move."""
    facts = (tokens.coords, tokens.source, tokens.mask, tokens.live)
    return bool(tokens.extras) or any(fact is not None for fact in facts)


def _united(tokens: Tokens, kept: Tokens, gone: Tensor, target: Tensor) -> Tokens:
    """`kept`, whose sources also hold those of the tokens at `gone` (B, r)."""
    if tokens.source is None or kept.source is None:
        return kept
    source = kept.source.to(torch.float32)
    add_rows(source, target, gather_rows(tokens.source, gone).to(torch.float32))
    return dataclasses.replace(kept, source=source > 0)
