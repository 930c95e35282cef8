"""The only place where attention is spelled out, so that its intermediate values can be tapped.

Plain attention stays fused (`scaled_dot_product_attention`) unless the map itself was asked for:
keys, queries and values are free, the class row is one extra vector-matrix product, sizes and masks
enter as one additive bias per key. Relative-position attention (AutoFormer) always spells the map
out, because its value side needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from autotok.tokens import NEEDS_MAP, Needs, Taps, Tokens

__all__ = ["RelativeTables", "attention", "key_bias", "relative_attention", "scouted"]


def key_bias(tokens: Tokens, dtype: torch.dtype) -> Tensor | None:
    """(B, N) to add to every key's logit: log of its size (1 for prefix tokens), -inf for padding.

    None where there is neither. Sizes that are being learned are left to the product form.
    """
    bias, size = None, tokens.whole_size()
    if size is not None and not size.requires_grad:
        bias = size.to(torch.float32).log().to(dtype)
    if tokens.live is not None:
        live = F.pad(tokens.live, (tokens.num_prefix, 0), value=True)
        zeros = tokens.x.new_zeros(live.shape, dtype=dtype) if bias is None else bias
        bias = zeros.masked_fill(~live, -torch.inf)
    return bias


def needs_map(tokens: Tokens, needs: Needs) -> bool:
    """Whether the map itself has to be computed."""
    learned = tokens.size is not None and tokens.size.requires_grad
    shaped = tokens.mask is not None or tokens.rule.sparsity < 1.0
    return bool(needs & NEEDS_MAP) or shaped or learned


def attention(q: Tensor, k: Tensor, v: Tensor, tokens: Tokens, needs: Needs) -> tuple[Tensor, Taps]:
    """Softmax attention over (B, H, N, D) queries, keys and values.

    Returns the heads' outputs (B, H, N, D) and the taps asked for.
    """
    scale = q.shape[-1] ** -0.5
    bias = key_bias(tokens, q.dtype)
    if needs_map(tokens, needs):
        logits = (q * scale) @ k.transpose(-2, -1)
        if bias is not None:
            logits = logits + bias[:, None, None, :]
        weights = _softmax(logits, tokens)
        del logits  # or two maps are held beside the outputs
        out = weights @ v
        return out, _taps(q, k, v, needs, weights, out=out, tokens=tokens)
    bias_rows = None if bias is None else bias[:, None, None, :]
    if bias_rows is not None:
        bias_rows = bias_rows.expand(-1, 1, q.shape[2], -1)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias_rows)
    cls_row = None
    if needs & Needs.CLS_ATTENTION:
        row = (q[:, :, :1] * scale) @ k.transpose(-2, -1)  # (B, H, 1, N)
        if bias is not None:
            row = row + bias[:, None, None, :]
        cls_row = row.softmax(dim=-1)[:, :, 0]
    return out, _taps(q, k, v, needs, None, cls_row, out)


def _softmax(logits: Tensor, tokens: Tokens) -> Tensor:
    """Softmax over keys (B, H, N, N) as mask, learned sizes and rule of the tokens shape it.

    Masked form (DynamicViT's policy): dropped tokens are seen by nobody but themselves, the row
    maximum runs over all keys, a small e keeps an empty row finite. Sizes being learned multiply
    the exponentials: the same value as a log bias, and a gradient where a size reaches 0.
    """
    learned = tokens.size is not None and tokens.size.requires_grad
    if tokens.mask is None and not learned:
        return _sparse(logits.softmax(dim=-1), tokens.rule.sparsity)
    total, rule = logits.shape[-1], tokens.rule
    logits32 = logits.to(torch.promote_types(logits.dtype, torch.float32))
    raw = (logits32 - logits32.amax(dim=-1, keepdim=True)).exp()
    epsilon = 0.0
    if tokens.mask is not None:
        epsilon = rule.epsilon
        mask = F.pad(tokens.mask.to(raw.dtype), (tokens.num_prefix, 0), value=1.0)  # (B, N)
        policy = mask[:, None, None, :]
        if rule.diagonal:
            eye = torch.eye(total, dtype=raw.dtype, device=logits.device)
            policy = policy * (1.0 - eye) + eye  # (B, 1, N, N)
        raw = raw * policy
    if learned:
        assert tokens.size is not None
        size = F.pad(tokens.size.to(raw.dtype), (tokens.num_prefix, 0), value=1.0)
        raw = raw * size[:, None, None, :]
    weights = (raw + epsilon / total) / (raw.sum(dim=-1, keepdim=True) + epsilon)
    return _sparse(weights.to(logits.dtype), rule.sparsity)


def _sparse(weights: Tensor, sparsity: float) -> Tensor:
    """The map with each head's smallest entries at 0, no renormalisation (GTP)."""
    if sparsity >= 1.0:
        return weights
    flat = weights.flatten(2)
    smallest = int(flat.shape[-1] * (1.0 - sparsity))  # as published, in floats
    if smallest < 1:
        return weights
    limit = flat.kthvalue(smallest, dim=-1, keepdim=True).values
    return torch.where(flat < limit, 0.0, flat).view_as(weights)


def _taps(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    needs: Needs,
    weights: Tensor | None,
    cls_row: Tensor | None = None,
    out: Tensor | None = None,
    tokens: Tokens | None = None,
) -> Taps:
    values: dict[str, Tensor] = {}
    if needs & Needs.KEYS:
        values["keys"] = k
    if needs & Needs.QUERIES:
        values["queries"] = q
    if needs & Needs.VALUES:
        values["values"] = v
    if needs & Needs.CLS_QUERY:
        values["cls_query"] = q[:, :, :1]
    if needs & Needs.HEAD_OUTPUTS:
        assert out is not None
        values["head_outputs"] = out
    if needs & Needs.CLS_ATTENTION:
        row = weights[:, :, 0] if weights is not None else cls_row
        assert row is not None
        values["cls_attention"] = row
    if needs & Needs.COLUMN_MEANS:
        assert weights is not None
        values["column_means"] = _column_means(weights, tokens)
    if needs & Needs.ATTENTION:
        assert weights is not None
        values["attention"] = weights
    return Taps(values)


def _column_means(weights: Tensor, tokens: Tokens | None) -> Tensor:
    """(B, H, N) mean over query rows of the map (B, H, N, N); padding asks nothing."""
    if tokens is None or tokens.live is None:
        return weights.mean(dim=2)
    rows = F.pad(tokens.live.to(weights.dtype), (tokens.num_prefix, 0), value=1.0)  # (B, N)
    return (weights * rows[:, None, :, None]).sum(dim=2) / rows.sum(dim=1)[:, None, None]


class Projection(Protocol):
    """A linear layer's numbers."""

    @property
    def weight(self) -> Tensor: ...

    @property
    def bias(self) -> Tensor | None: ...


def scouted(
    normed: Tensor,
    qkv: Projection,
    head_dim: int,
    needs: Needs,
    norms: Sequence[Callable[[Tensor], Tensor]] = (),
) -> Taps:
    """Taps of a block's projections without its attention; only those asked for are computed.

    Args:
        normed: (B, N, C), the tokens after the block's first norm.
        qkv: The joint projection, queries first, then keys and values, (3 H D, C).
        head_dim: D.
        needs: NORMED, QUERIES, CLS_QUERY, KEYS, VALUES.
        norms: What queries and keys go through afterwards, if anything.
    """
    parts = zip(
        ("queries", "keys", "values"),
        (Needs.QUERIES, Needs.KEYS, Needs.VALUES),
        range(3),
        strict=True,
    )
    values: dict[str, Tensor] = {}
    if needs & Needs.NORMED:
        values["normed"] = normed
    inner = qkv.weight.shape[0] // 3

    def project(rows: Tensor, part: int) -> Tensor:
        own = slice(part * inner, (part + 1) * inner)
        bias = None if qkv.bias is None else qkv.bias[own]
        heads = F.linear(rows, qkv.weight[own], bias).unflatten(-1, (-1, head_dim))
        heads = heads.transpose(1, 2)  # (B, H, N, D)
        return norms[part](heads) if part < len(norms) else heads

    for name, need, part in parts:
        if needs & need:
            values[name] = project(normed, part)
    if needs & Needs.CLS_QUERY:
        values["cls_query"] = project(normed[:, :1], 0)
    return Taps(values)


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
    """Attention with 2-D relative positions on keys and values, looked up by carried coordinates.

    logits_ij = (q_i . k_j + q_i . RK_ij) / sqrt(D);  out_i = sum_j a_ij (v_j + RV_ij), where R_ij
    is the sum of a row-offset and a column-offset table row. Never builds R: q_i . R_ij is gathered
    from q T^T, (B, H, N, 2 max_offset + 2); the value side adds attention up per offset and
    multiplies by the table (exact; 4 * (2 max_offset + 2) * N * H * D multiply-accumulates a
    block).
    """
    scale = q.shape[-1] ** -0.5
    prefix, offset = tokens.num_prefix, tables.max_offset
    by_row = q @ tables.key_rows.transpose(0, 1)  # (B, H, N, R)
    by_column = q @ tables.key_columns.transpose(0, 1)
    if tokens.raster:
        rows, columns = tokens.grid
        row_table = _offset_index(rows, offset, q.device)  # (rows, rows)
        column_table = _offset_index(columns, offset, q.device)
        places = _raster_bias(by_row, by_column, row_table, column_table, prefix)
    else:
        assert tokens.coords is not None
        pairs = _pair_index(tokens.coords, prefix, offset).unsqueeze(2)  # (B, 2, 1, N, N)
        shape = (*q.shape[:3], q.shape[2])
        places = by_row.gather(-1, pairs[:, 0].expand(shape))
        places = places + by_column.gather(-1, pairs[:, 1].expand(shape))
    logits = _scaled_sum(places, q, k, scale)
    del places
    bias = key_bias(tokens, q.dtype)
    if bias is not None:
        logits = logits + bias[:, None, None, :]
    weights = _softmax(logits, tokens)
    del logits
    if tokens.raster:
        bins = _raster_bins(weights, row_table, column_table, tables, prefix)
    else:
        rows_bins, column_bins = (torch.zeros_like(by_row) for _ in range(2))
        bins = (
            rows_bins.scatter_add_(-1, pairs[:, 0].expand(shape), weights),
            column_bins.scatter_add_(-1, pairs[:, 1].expand(shape), weights),
        )
    out = (weights @ v).flatten(0, 2)  # (B * H * N, D)
    out = torch.addmm(out, bins[0].flatten(0, 2), tables.value_rows)
    out = torch.addmm(out, bins[1].flatten(0, 2), tables.value_columns).view_as(q)
    return out, _taps(q, k, v, needs, weights, out=out, tokens=tokens)


def _scaled_sum(places: Tensor, q: Tensor, k: Tensor, scale: float) -> Tensor:
    """(places + q k^T) * scale, (B, H, N, N), in one operator."""
    keys = k.flatten(0, 1).transpose(1, 2)
    places = places.flatten(0, 1)
    return torch.baddbmm(places, q.flatten(0, 1), keys, beta=scale, alpha=scale).view(
        *q.shape[:3], -1
    )


def _offset_index(extent: int, max_offset: int, device: torch.device) -> Tensor:
    """(extent, extent) table rows for offset j - i along one axis."""
    line = torch.arange(extent, device=device)
    return (line[None, :] - line[:, None]).clamp(-max_offset, max_offset) + max_offset + 1


def _pair_index(coords: Tensor, prefix: int, max_offset: int) -> Tensor:
    """(B, 2, N, N) table rows for every query and key along both axes, from coords (B, n, 2)."""
    position = coords.transpose(1, 2)
    delta = position[:, :, None, :] - position[:, :, :, None]
    index = delta.clamp(-max_offset, max_offset) + (max_offset + 1)
    return F.pad(index, (prefix, 0, prefix, 0))  # prefix pairs use row 0


def _raster_bias(
    by_row: Tensor, by_column: Tensor, row_table: Tensor, column_table: Tensor, prefix: int
) -> Tensor:
    """(B, H, N, N) position logits of a full grid: two small gathers and a broadcast sum."""
    rows, columns = row_table.shape[0], column_table.shape[0]
    batch, heads = by_row.shape[:2]
    grid = (batch, heads, rows, columns)
    own_row = by_row[:, :, prefix:].reshape(*grid, -1)
    own_column = by_column[:, :, prefix:].reshape(*grid, -1)
    vertical = own_row.gather(-1, row_table[None, None, :, None].expand(*grid, rows))
    horizontal = own_column.gather(-1, column_table[None, None, None].expand(*grid, columns))
    patches = (vertical.unsqueeze(-1) + horizontal.unsqueeze(-2)).flatten(4).flatten(2, 3)
    constant = by_row[..., :1] + by_column[..., :1]  # (B, H, N, 1): any pair with a prefix token
    total = rows * columns
    if prefix == 0:
        return patches
    patches = torch.cat([constant[:, :, prefix:].expand(-1, -1, -1, prefix), patches], dim=-1)
    return torch.cat([constant[:, :, :prefix].expand(-1, -1, -1, prefix + total), patches], dim=2)


def _raster_bins(
    weights: Tensor,
    row_table: Tensor,
    column_table: Tensor,
    tables: RelativeTables,
    prefix: int,
) -> tuple[Tensor, Tensor]:
    """Attention (B, H, N, N) of a full grid added up per row offset and per column offset."""
    rows, columns = row_table.shape[0], column_table.shape[0]
    batch, heads = weights.shape[:2]
    width = tables.value_rows.shape[0]
    grid = (batch, heads, rows, columns)
    patches = weights[:, :, prefix:, prefix:].reshape(*grid, rows, columns)
    result = []
    for summed, index in (
        (patches.sum(dim=-1), row_table[None, None, :, None].expand(*grid, rows)),
        (patches.sum(dim=-2), column_table[None, None, None].expand(*grid, columns)),
    ):
        bins = weights.new_zeros(*grid, width).scatter_add(-1, index, summed).flatten(2, 3)
        if prefix:
            to_prefix = weights[:, :, prefix:, :prefix].sum(dim=-1, keepdim=True)
            bins = torch.cat([to_prefix, bins[..., 1:]], dim=-1)
            # softmax rows sum to one, but masked rows need not: add them up
            own = weights[:, :, :prefix].sum(dim=-1, keepdim=True)
            bins = torch.cat([F.pad(own, (0, width - 1)), bins], dim=2)
        result.append(bins)
    return result[0], result[1]
