"""The only place where attention is spelled out, so that its intermediate values can be tapped.

Plain attention stays fused (`scaled_dot_product_attention`) unless the map itself was asked for:
keys, queries and values are free, the class row is one extra vector-matrix product, sizes and masks
enter as one additive bias per key. AutoFormer's attention: `relative_attention`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from autotok.tokens import NEEDS_MAP, Needs, Taps, Tokens


def key_bias(tokens: Tokens, dtype: torch.dtype) -> Tensor | None:
    """(B, N) to add to every key's logit: log of its size (1 for prefix tokens), -inf for padding.

    None where there is neither. Sizes that are being learned are left to the product form.
    """
    learned = tokens.size is not None and tokens.size.requires_grad
    bias, size = None, None if learned else tokens.whole_size()
    if size is not None:
        bias = size.to(torch.float32).log().to(dtype)
    if tokens.live is not None:
        live = F.pad(tokens.live, (tokens.num_prefix, 0), value=True)
        zeros = tokens.x.new_zeros(live.shape, dtype=dtype) if bias is None else bias
        bias = zeros.masked_fill(~live, -torch.inf)
    return bias


def _added(keys: Tensor | None, pairs: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """What logits (B, H, N, N) have added, of biases per key (B, N) and per pair; None for none."""
    rows = None if keys is None else keys[:, None, None, :]
    if pairs is None:
        return rows
    return pairs.to(dtype) if rows is None else pairs.to(dtype) + rows


def shapes_softmax(tokens: Tokens) -> bool:
    """Whether mask, learned sizes or sparsity make softmax another than the plain one."""
    learned = tokens.size is not None and tokens.size.requires_grad
    return tokens.mask is not None or tokens.rule.sparsity < 1.0 or learned


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tokens: Tokens,
    needs: Needs,
    *,
    positions: Tensor | None = None,
    dropout: float = 0.0,
) -> tuple[Tensor, Taps]:
    """Softmax attention over (B, H, N, D) queries, keys and values.

    `positions`, (B or 1, H, N, N), is what the places of two tokens add to their logit; `dropout`
    the share of the weights that outputs are made without. Returns the heads' outputs (B, H, N, D)
    and the taps asked for.
    """
    scale = q.shape[-1] ** -0.5
    bias = _added(key_bias(tokens, q.dtype), positions, q.dtype)
    if needs & NEEDS_MAP or shapes_softmax(tokens):
        logits = (q * scale) @ k.transpose(-2, -1)
        if bias is not None:
            logits = logits + bias
        weights = softmax(logits, tokens)
        del logits  # or two maps are held beside the outputs
        out = (F.dropout(weights, dropout) if dropout else weights) @ v
        return out, tapped(q, k, v, out, needs, _of_map(weights, needs, tokens))
    rows = None if bias is None else bias.expand(-1, -1, q.shape[2], -1)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=rows, dropout_p=dropout)
    of_map = {}
    if needs & Needs.CLS_ATTENTION:
        row = (q[:, :, :1] * scale) @ k.transpose(-2, -1)  # (B, H, 1, N)
        if bias is not None:
            row = row + bias[:, :, :1]
        of_map["cls_attention"] = row.softmax(dim=-1)[:, :, 0]
    return out, tapped(q, k, v, out, needs, of_map)


def softmax(logits: Tensor, tokens: Tokens) -> Tensor:
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


def tapped(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, needs: Needs, of_map: Mapping[str, Tensor]
) -> Taps:
    """The taps asked for; `of_map` holds those that softmax gave."""
    free = {
        Needs.KEYS: ("keys", k),
        Needs.QUERIES: ("queries", q),
        Needs.VALUES: ("values", v),
        Needs.CLS_QUERY: ("cls_query", q[:, :, :1]),
        Needs.HEAD_OUTPUTS: ("head_outputs", out),
    }
    return Taps(dict(pair for need, pair in free.items() if needs & need) | dict(of_map))


def _of_map(weights: Tensor, needs: Needs, tokens: Tokens) -> dict[str, Tensor]:
    values = {}
    if needs & Needs.CLS_ATTENTION:
        values["cls_attention"] = weights[:, :, 0]
    if needs & Needs.COLUMN_MEANS:
        shares = query_shares(tokens, weights)
        values["column_means"] = (weights * shares[:, None, :, None]).sum(dim=2)
    if needs & Needs.ATTENTION:
        values["attention"] = weights
    return values


def query_shares(tokens: Tokens, like: Tensor) -> Tensor:
    """(B, N) of each query in a mean over queries; padding asks nothing."""
    if tokens.live is None:
        return like.new_full(tokens.x.shape[:2], 1.0 / tokens.x.shape[1])
    rows = F.pad(tokens.live.to(like.dtype), (tokens.num_prefix, 0), value=1.0)
    return rows / rows.sum(dim=1, keepdim=True)


class Projection(Protocol):
    """A linear layer's numbers."""

    @property
    def weight(self) -> Tensor: ...

    @property
    def bias(self) -> Tensor | None: ...

    def __call__(self, x: Tensor, /) -> Tensor: ...


@dataclass(frozen=True)
class LinearPart:
    """A linear layer's numbers, or those of some of its rows."""

    weight: Tensor
    bias: Tensor | None = None

    def __call__(self, x: Tensor, /) -> Tensor:
        return F.linear(x, self.weight, self.bias)


def thirds(qkv: Projection) -> tuple[Projection, ...]:
    """Queries', keys' and values' own parts of a joint projection (3 H D, C)."""
    weights = qkv.weight.chunk(3)
    biases = (None,) * 3 if qkv.bias is None else qkv.bias.chunk(3)
    return tuple(LinearPart(w, b) for w, b in zip(weights, biases, strict=True))


def scouted(
    normed: Tensor,
    qkv: Projection | Sequence[Projection],
    head_dim: int,
    needs: Needs,
    norms: Sequence[Callable[[Tensor], Tensor]] = (),
) -> Taps:
    """Taps of a block's projections without its attention; only those asked for are computed.

    Args:
        normed: (B, N, C), the tokens after the block's first norm.
        qkv: The joint projection, queries first, then keys and values, (3 H D, C), or all three.
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
    projections = qkv if isinstance(qkv, Sequence) else thirds(qkv)

    def project(rows: Tensor, part: int) -> Tensor:
        heads = projections[part](rows).unflatten(-1, (-1, head_dim))
        heads = heads.transpose(1, 2)  # (B, H, N, D)
        return norms[part](heads) if part < len(norms) else heads

    for name, need, part in parts:
        if needs & need:
            values[name] = project(normed, part)
    if needs & Needs.CLS_QUERY:
        values["cls_query"] = project(normed[:, :1], 0)
    return Taps(values)
