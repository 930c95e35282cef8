"""AutoFormer's attention: 2-D relative positions on keys and values, by carried coordinates.

    logits_ij = (q_i . k_j + q_i . RK_ij) / sqrt(D)      out_i = sum_j a_ij (v_j + RV_ij)

R_ij is a row of a table by row offset plus one of a table by column offset. Nothing is looked up
pair by pair: what a query gives to the keys of one line of the grid is the same for all of them, so
it is looked up once per line, (L, N), and each key takes the rows of its two lines. On the value
side attention is added up per line, then per offset, and multiplied by the tables. The map lies
keys down, queries across, so that both are copies and sums of contiguous rows; it is made for a few
queries at a time, which stay in the cache, and is nowhere whole unless somebody asked for it.
Multiply-accumulates: 4 * (2 max_offset + 2) * N * H * D a block beside the two products.

In half precision, and in exported files, products cost less than copies: there the lines are
features of keys and values, 1 where a key is on the line, and of queries what they give to it, so
that both products do it all. (In files copies would also be sums by scatter, see `row_index`.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.weak import WeakTensorKeyDictionary

from autotok.tokens import Needs, Taps, Tokens, grid_coords, is_watched

from .attention import key_bias, query_shares, shapes_softmax, softmax, tapped

# Entries of the map at once: a megabyte of float32, half of it still in the cache of a core when
# the values want it; an accelerator has no such cache and pays for every launch.
CACHED, LAUNCHED = 2**18, 2**27
TILE = 32  # queries: other numbers cost products up to a fifth, and maxima over keys ten times
HIDDEN = -30000.0  # the logit of padding: no weight is left, and no 0 times infinity


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
    halves = q.dtype.itemsize == 2 and _cached(q) and not q.requires_grad
    if (halves or torch.onnx.is_in_onnx_export()) and not shapes_softmax(tokens):
        if torch.onnx.is_in_onnx_export():  # no autocast there, and a region of it costs a graph
            return _by_features(q, k, v, tables, tokens, needs)
        with torch.autocast("cpu", enabled=False):
            return _by_features(q, k, v, tables, tokens, needs)
    batch, heads, total, _ = q.shape
    lines = _Lines.of(tokens, tables.max_offset)
    entries = lines.entries.unsqueeze(1).expand(batch, heads, -1, -1)
    table = torch.cat([tables.key_rows, tables.key_columns])
    by_line = (table @ q.transpose(-2, -1)).gather(2, entries)
    images, queries = _at_once(q, tokens)
    parts = []
    for own in _slices(batch, images):
        group = _Group(q[own], k[own], v[own], by_line[own], lines, own, tokens)
        blocks = [group.block(some, needs) for some in _slices(total, queries)]
        parts.append({name: _joined(name, [b[name] for b in blocks]) for name in blocks[0]})
    found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    sums = found.pop("sums")
    bins = sums.new_zeros(batch, heads, len(table), total).scatter_add(2, entries, sums)
    bins = bins.to(q.dtype).transpose(-2, -1).flatten(0, 2)
    table = torch.cat([tables.value_rows, tables.value_columns])
    out = torch.addmm(found.pop("out").flatten(0, 2), bins, table).view_as(q)
    return out, tapped(q, k, v, out, needs, found)


def _by_features(
    q: Tensor, k: Tensor, v: Tensor, tables: RelativeTables, tokens: Tokens, needs: Needs
) -> tuple[Tensor, Taps]:
    """`relative_attention` with lines as features of D + L."""
    batch, heads, total, width = q.shape
    looked_up = _entries_and_features(tokens, tables.max_offset, q.dtype)
    entries, on = (part.unsqueeze(1).expand(batch, heads, -1, -1) for part in looked_up)
    table = torch.cat([tables.key_rows, tables.key_columns]).to(q.dtype)
    asking = torch.cat([q, (q @ table.T).gather(3, entries)], dim=-1) * width**-0.5
    keys, values = [k, on], torch.cat([v, on], dim=-1).flatten(0, 1)
    bias = key_bias(tokens, q.dtype)
    if bias is not None:
        asking = F.pad(asking, (0, 1), value=1.0)
        bias = bias.clamp(min=HIDDEN)[:, None, :, None]
        keys.append(bias.expand(batch, heads, -1, -1))
    asking, asked = asking.flatten(0, 1), torch.cat(keys, dim=-1).flatten(0, 1).transpose(1, 2)
    parts, shares = [], query_shares(tokens, q) if needs & Needs.COLUMN_MEANS else None
    for own in _slices(total, _features_at_once(q)):
        weights = torch.bmm(asking[:, own], asked).softmax(dim=-1)
        found = {"out": torch.bmm(weights, values)}
        whole = weights.unflatten(0, (batch, heads))
        if needs & Needs.CLS_ATTENTION:
            found["cls_attention"] = whole[:, :, 0].clone()
        if needs & Needs.ATTENTION:
            found["attention"] = whole
        if shares is not None:
            found["column_means"] = (shares[:, None, None, own] @ whole).squeeze(2)
        parts.append(found)
    taps = {name: _joined(name, [part[name] for part in parts]) for name in parts[0]}
    out, sums = taps.pop("out").view(batch, heads, total, -1).split([width, on.shape[-1]], dim=-1)
    bins = q.new_zeros(batch, heads, total, len(table), dtype=torch.float32)
    bins = bins.scatter_add_(3, entries, sums.float()).to(q.dtype)
    table = torch.cat([tables.value_rows, tables.value_columns]).to(q.dtype)
    out = torch.addmm(out.flatten(0, 2), bins.flatten(0, 2), table).view_as(q)
    return out, tapped(q, k, v, out, needs, taps)


@dataclass(frozen=True)
class _Lines:
    """The grid's L lines: its rows, one more, its columns, one more; what has no position is on
    those. The first axis is 1 where all images agree."""

    rows: int
    columns: int
    keys: Tensor
    """(B, 2, N): which of the rows, and which of the columns, a token is on."""
    entries: Tensor
    """(B, L, N): where in both tables, one behind the other, a query finds the keys of a line."""

    @classmethod
    def of(cls, tokens: Tokens, max_offset: int) -> _Lines:
        coords = grid_coords(tokens.grid, device=tokens.x.device)
        if not tokens.raster:
            assert tokens.coords is not None
            coords = tokens.coords
        least = math.isqrt(tokens.num_patches) + 2  # naive positions may end below the grid
        counts = [max(extent, least) for extent in tokens.grid]
        keys, entries = [], []
        for axis, count in enumerate(counts):
            own = coords[:, None, :, axis]  # (B, 1, n)
            away = torch.arange(count, device=own.device)[:, None] - own
            entry = away.clamp(-max_offset, max_offset) + (max_offset + 1)
            # entry 0 is for prefix tokens, whatever the line, and for their line, whoever asks
            entry = F.pad(entry, (tokens.num_prefix, 0, 0, 1))
            entries.append(entry + axis * (2 * max_offset + 2))
            keys.append(F.pad(own, (tokens.num_prefix, 0), value=count))
        rows, columns = (count + 1 for count in counts)
        return cls(rows, columns, torch.cat(keys, dim=1), torch.cat(entries, dim=1))

    def features(self, dtype: torch.dtype) -> Tensor:
        """(B, N, L): 1 where a key is on the line, else 0."""
        row, column = self.keys.unbind(1)
        shape = (*row.shape, self.rows + self.columns)
        on = torch.zeros(shape, dtype=dtype, device=row.device)
        return on.scatter_(2, torch.stack([row, column + self.rows], dim=2), 1.0)

    def of_maps(self, images: slice, batch: int, heads: int) -> tuple[Tensor, Tensor, Tensor]:
        """Row, column and cell of every key (b * H * N), counted through the maps of some images:
        rows and columns among all lines, cells among rows times columns."""
        row, column = self.keys.expand(batch, -1, -1)[images].unsqueeze(1).unbind(2)
        maps = torch.arange(row.shape[0] * heads, device=row.device).view(-1, heads, 1)
        first = maps * (self.rows + self.columns)
        cell = (maps * self.rows + row) * self.columns + column
        return (first + row).flatten(), (first + self.rows + column).flatten(), cell.flatten()


_Shared = dict[tuple[bool, int, torch.dtype], tuple[Tensor, Tensor]]
_SHARED: Any = WeakTensorKeyDictionary()
"""What blocks of a file that is being written share, while the positions it was made of live."""


def _entries_and_features(
    tokens: Tokens, max_offset: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """(B, N, L) each, of the tokens' lines; in files once for all blocks of the same tokens, for
    there each operator costs the time of writing it."""
    shared: _Shared = {}
    if torch.onnx.is_in_onnx_export() and tokens.coords is not None:
        shared = _SHARED.setdefault(tokens.coords, shared)
    key = tokens.raster, max_offset, dtype
    if key not in shared:
        lines = _Lines.of(tokens, max_offset)
        shared[key] = lines.entries.transpose(1, 2), lines.features(dtype)
    return shared[key]


def _at_once(q: Tensor, tokens: Tokens) -> tuple[int | None, int | None]:
    """Images, and queries of each, whose maps are made in one go; None is all."""
    batch, heads, total, _ = q.shape
    if is_watched() or shapes_softmax(tokens):
        return None, None
    room = CACHED if _cached(q) else LAUNCHED
    images = max(1, min(batch, room // (heads * total * total)))
    queries = room // (images * heads * total)
    return images, total if queries >= total else max(1, queries // TILE) * TILE


def _features_at_once(q: Tensor) -> int | None:
    """Queries whose map is made in one go where lines are features; None is all."""
    batch, heads, total, _ = q.shape
    if is_watched():
        return None
    return max(TILE, 2 * CACHED // (batch * heads * total) // TILE * TILE)


def _cached(q: Tensor) -> bool:
    """A processor with a cache runs this; the meta device stands for boards with accelerators."""
    return q.device.type == "cpu" and not is_watched()


def _slices(total: int, step: int | None) -> list[slice]:
    if step is None:
        return [slice(None)]  # a batch of any size stays one where operators are written down
    return [slice(start, start + step) for start in range(0, total, step)]


_AXES = {"out": -2, "sums": 3, "attention": 2}


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
        lines: _Lines,
        images: slice,
        tokens: Tokens,
    ) -> None:
        """`by_line` (b, H, L, N) is what queries add to the logits of a line's keys, unscaled;
        `tokens` and `lines` are all images', `images` which of them these are."""
        self.q, self.k, self.v, self.by_line = q, k.flatten(0, 1), v.flatten(0, 1), by_line
        self.images, self.tokens, self.lines = images, tokens, lines
        *self.keys, self.cells = lines.of_maps(images, tokens.x.shape[0], q.shape[1])
        self.in_powers = _cached(q) and not (shapes_softmax(tokens) or by_line.requires_grad)
        """Whether softmax is made in place of powers of 2: half the time of the usual."""
        bias, self.unit = key_bias(tokens, q.dtype), math.log2(math.e) if self.in_powers else 1.0
        self.bias = None if bias is None else bias[images, None, :, None] * self.unit

    def block(self, queries: slice, needs: Needs) -> dict[str, Tensor]:
        """Outputs (b, H, s, D) without relative values, attention's sums (b, H, L, s) over lines,
        and the taps of the map."""
        weights = self._weights(self._logits(queries))  # keys down, queries across
        shape, lines = self.q.shape[:2], self.by_line.shape[2]
        sums = weights.new_zeros(self.k.shape[0] * lines, weights.shape[2])
        for keys in self.keys:
            sums.index_add_(0, keys, weights.flatten(0, 1))
        sums = sums.view(self.k.shape[0], lines, -1)
        out = weights.to(self.v.dtype).transpose(1, 2) @ self.v
        total = None
        if self.in_powers:
            total = sums.sum(dim=1, keepdim=True) / 2  # every key is on two lines
            sums, out = sums / total, out / total.transpose(1, 2).to(out.dtype)
        found = {"out": out.unflatten(0, shape), "sums": sums.unflatten(0, shape)}
        return found | self._of_map(weights.unflatten(0, shape), total, queries, needs)

    def _of_map(
        self, weights: Tensor, total: Tensor | None, queries: slice, needs: Needs
    ) -> dict[str, Tensor]:
        """The taps of the map (b, H, N, s), whose columns add up to `total` (b * H, 1, s), if to
        anything but 1; the map is used up."""
        found, dtype = {}, self.v.dtype
        if total is not None:
            total = total.unflatten(0, weights.shape[:2])
        if needs & (Needs.ATTENTION | Needs.CLS_ATTENTION) and total is not None:
            weights, total = weights.div_(total), None
        if needs & Needs.CLS_ATTENTION:  # of the first of these queries; a view would keep them all
            found["cls_attention"] = weights[..., 0].to(dtype, copy=True)
        if needs & Needs.ATTENTION:
            found["attention"] = weights.to(dtype).transpose(-2, -1)
        if needs & Needs.COLUMN_MEANS:
            shares = query_shares(self.tokens, weights)[self.images, None, None, queries]
            shared = weights * shares if total is None else weights.mul_(shares / total)
            found["column_means"] = shared.sum(dim=-1).to(dtype)
        return found

    def _logits(self, queries: slice) -> Tensor:
        """(b * H, N, s), in units of the softmax."""
        q = self.q[:, :, queries].flatten(0, 1).transpose(1, 2)
        by_line = self.by_line[..., queries].flatten(0, 1)
        rows, columns = by_line.split([self.lines.rows, self.lines.columns], dim=1)
        cells = (rows.unsqueeze(2) + columns.unsqueeze(1)).flatten(0, 2)
        logits = cells.index_select(0, self.cells).view(self.k.shape[0], -1, q.shape[2])
        del cells
        scale = self.unit * q.shape[1] ** -0.5
        own = logits if self.in_powers else None
        logits = torch.baddbmm(logits, self.k, q, beta=scale, alpha=scale, out=own)
        if self.bias is not None:
            logits.unflatten(0, self.q.shape[:2]).add_(self.bias)
        return logits

    def _weights(self, logits: Tensor) -> Tensor:
        """Softmax over keys (b * H, N, s), in float32 at least; if `in_powers` not normalised."""
        wide = torch.promote_types(logits.dtype, torch.float32)
        if self.in_powers:
            logits = logits.to(wide)
            logits -= logits.amax(dim=1, keepdim=True)
            return logits.exp2_()
        if not shapes_softmax(self.tokens):
            return logits.softmax(dim=1, dtype=wide)
        shaped = logits.unflatten(0, self.q.shape[:2]).transpose(-2, -1)
        return softmax(shaped, self.tokens).transpose(-2, -1).flatten(0, 1).contiguous()
