"""AutoFormer's attention: 2-D relative positions on keys and values, by carried coordinates.

    logits_ij = (q_i . k_j + q_i . RK_ij) / sqrt(D)      out_i = sum_j a_ij (v_j + RV_ij)

R_ij is a row of a table by row offset plus one of a table by column offset. Nothing is looked up
pair by pair: what a query gives to the keys of one line of the grid is the same for all of them, so
it is looked up once per line, (L, N), and each key takes the rows of its two lines. On the value
side attention is added up per line, then per offset, and multiplied by the tables. The map lies
keys down, queries across, so that both are copies and sums of contiguous rows; it is made for a few
queries at a time, which stay in the cache, and is nowhere whole unless somebody asked for it.
Multiply-accumulates: 4 * (2 max_offset + 2) * N * H * D a block beside the two products.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from autotok.tokens import Needs, Taps, Tokens, grid_coords

from .attention import key_bias, query_shares, shapes_softmax, softmax, tapped

__all__ = ["RelativeTables", "relative_attention"]

# Entries of the map at once: a megabyte of float32, half of it still in the cache of a core when
# the values want it; an accelerator has no such cache and pays for every launch.
CACHED, LAUNCHED = 2**18, 2**27


@dataclass(frozen=True)
class RelativeTables:
    """AutoFormer's relative positions of one block: four tables (2 * max_offset + 2, D).

    Row 0 serves every pair with a prefix token; offset o, clipped to +-max_offset, is at row
    o + max_offset + 1. Keys and values have one table each for rows and for columns.
    """

    key_rows: Tensor
    key_columns: Tensor
    value_rows: Tensor
    value_columns: Tensor

    @property
    def max_offset(self) -> int:
        """Largest offset told apart."""
        return (self.key_rows.shape[0] - 2) // 2


def relative_attention(
    q: Tensor, k: Tensor, v: Tensor, tables: RelativeTables, tokens: Tokens, needs: Needs
) -> tuple[Tensor, Taps]:
    """Heads' outputs (B, H, N, D) of queries, keys and values of that shape, and the taps."""
    batch, heads, total, _ = q.shape
    table = torch.cat([tables.key_rows, tables.key_columns])
    keys, entries = _lines(tokens, tables.max_offset)
    keys, entries = (x.expand(batch, *x.shape[1:]) for x in (keys, entries))
    entries = entries.unsqueeze(1).expand(-1, heads, -1, -1)
    by_line = (table @ q.transpose(-2, -1)).gather(2, entries)
    images, queries = _at_once(q, tokens)
    parts = []
    for own in _slices(batch, images):
        group = _Group(q[own], k[own], v[own], by_line[own], keys[own], own, tokens)
        blocks = [group.block(some, needs) for some in _slices(total, queries)]
        parts.append({name: _joined(name, [b[name] for b in blocks]) for name in blocks[0]})
        del group, blocks
    found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    sums = found.pop("sums")
    bins = sums.new_zeros(batch, heads, len(table), total).scatter_add(2, entries, sums)
    bins = bins.to(q.dtype).transpose(-2, -1).flatten(0, 2)
    table = torch.cat([tables.value_rows, tables.value_columns])
    out = torch.addmm(found.pop("out").flatten(0, 2), bins, table).view_as(q)
    return out, tapped(q, k, v, out, needs, found)


def _lines(tokens: Tokens, max_offset: int) -> tuple[Tensor, Tensor]:
    """What is known of the grid's lines: its rows, one line more, its columns, one line more.

    The additional ones are of what has no position. The first axis is 1 where all images agree.

    Returns:
        keys: (B, 2, N), the row's line and the column's line that each token is on.
        entries: (B, L, N), where in both tables, one behind the other, each query finds the keys
            of a line.
    """
    coords = grid_coords(tokens.grid, device=tokens.x.device) if tokens.raster else tokens.coords
    assert coords is not None
    least = math.isqrt(tokens.num_patches) + 2  # naive positions may end below the grid
    keys, entries, first = [], [], 0
    for axis, extent in enumerate(tokens.grid):
        own, count = coords[:, None, :, axis], max(extent, least)  # (B, 1, n)
        away = torch.arange(count, device=own.device)[:, None] - own
        entry = away.clamp(-max_offset, max_offset) + (max_offset + 1)
        # prefix tokens find entry 0 for every line, and all find it for the line of prefix tokens
        entry = F.pad(entry, (tokens.num_prefix, 0, 0, 1))
        entries.append(entry + axis * (2 * max_offset + 2))
        keys.append(F.pad(own, (tokens.num_prefix, 0), value=count) + first)
        first += count + 1
    return torch.cat(keys, dim=1), torch.cat(entries, dim=1)


def _at_once(q: Tensor, tokens: Tokens) -> tuple[int, int]:
    """Images, and queries of each, whose maps are made in one go."""
    batch, heads, total, _ = q.shape
    watched = torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
    if watched or shapes_softmax(tokens):
        return batch, total
    room = CACHED if q.device.type in ("cpu", "meta") else LAUNCHED
    images = max(1, min(batch, room // (heads * total * total)))
    pieces = math.ceil(images * heads * total * total / room)
    return images, math.ceil(total / pieces)


def _slices(total: int, step: int) -> list[slice]:
    return [slice(start, start + step) for start in range(0, total, step)]


_AXES = {"out": 2, "sums": 3, "attention": 2}


def _joined(name: str, parts: list[Tensor]) -> Tensor:
    """Of all queries, what blocks of them gave."""
    if name == "cls_attention":
        return parts[0]
    if name == "column_means":
        return torch.stack(parts).sum(dim=0)
    return torch.cat(parts, dim=_AXES[name])


class _Group:
    """Some images' attention, a few queries at a time; b of them, H heads, s queries."""

    def __init__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        by_line: Tensor,
        keys: Tensor,
        images: slice,
        tokens: Tokens,
    ) -> None:
        """`by_line` (b, H, L, N) is what queries add to logits, unscaled, on each line, `keys`
        (b, 2, N) the lines of keys; `tokens` are all images', `images` which of them these are."""
        self.q, self.k, self.v, self.by_line = q, k.flatten(0, 1), v.flatten(0, 1), by_line
        heads, lines = by_line.shape[1:3]
        maps = torch.arange(len(self.k), device=q.device).view(-1, heads, 1) * lines
        self.keys = [(maps + line.unsqueeze(1)).flatten() for line in keys.unbind(1)]
        """(b * H * N) each: the line of every key among those of all maps."""
        bias = key_bias(tokens, q.dtype)
        self.bias = None if bias is None else bias[images, None, :, None]
        self.images, self.tokens = images, tokens

    def block(self, queries: slice, needs: Needs) -> dict[str, Tensor]:
        """Outputs (b, H, s, D) without relative values, attention's sums (b, H, L, s) over lines,
        and the taps of the map."""
        weights = self._map(queries)  # keys down, queries across
        shape = (*self.q.shape[:2], *weights.shape[1:])
        flat, sums = (
            weights.flatten(0, 1),
            weights.new_zeros(len(self.k), self.by_line.shape[2], shape[3]),
        )
        for keys in self.keys:
            sums.view(-1, shape[3]).index_add_(0, keys, flat)
        out = weights.to(self.v.dtype).transpose(1, 2) @ self.v
        found = {"out": out.unflatten(0, shape[:2]), "sums": sums.unflatten(0, shape[:2])}
        weights = weights.view(shape)
        if needs & Needs.CLS_ATTENTION and queries.start == 0:
            found["cls_attention"] = weights[..., 0].to(out.dtype)
        if needs & Needs.COLUMN_MEANS:
            shares = query_shares(self.tokens, weights)[self.images, None, None, queries]
            found["column_means"] = (weights * shares).sum(dim=-1)
        if needs & Needs.ATTENTION:
            found["attention"] = weights.to(out.dtype).transpose(-2, -1)
        return found

    def _map(self, queries: slice) -> Tensor:
        """(b * H, N, s), in float32 at least."""
        q, by_line = self.q[:, :, queries], self.by_line[..., queries]
        scale, count = q.shape[3] ** -0.5, q.shape[2]
        by_line = by_line.reshape(-1, count)
        rows, columns = (by_line.index_select(0, keys) for keys in self.keys)
        logits = rows.add_(columns).view(len(self.k), -1, count)
        del columns
        logits.baddbmm_(self.k, q.flatten(0, 1).transpose(1, 2), beta=scale, alpha=scale)
        if self.bias is not None:
            logits.view(*q.shape[:2], -1, count).add_(self.bias)
        if shapes_softmax(self.tokens):
            shaped = logits.view(*q.shape[:2], -1, count).transpose(-2, -1)
            return softmax(shaped, self.tokens).transpose(-2, -1).flatten(0, 1).contiguous()
        return logits.softmax(dim=1, dtype=torch.promote_types(q.dtype, torch.float32))
