"""Backbones as the code behind a published figure runs them, where that is not autotok's own.

A throughput at batch 128 is a matter of bytes, and somebody else's code moves other bytes. These
stand-ins repeat its operators, shapes alone, so that a prediction can be held against what was
timed. Nothing else uses them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from autotok.backbones.attention import LinearPart
from autotok.backbones.autoformer import AutoFormer
from autotok.backbones.base import Backbone
from autotok.errors import ConfigError
from autotok.tokens import Needs, Taps, Tokens


def as_published(backbone: Backbone, *, proportional: bool) -> Backbone:
    """The stand-in of an AutoFormer structure, on the meta device.

    Args:
        backbone: What it stands in for.
        proportional: Whether attention adds the log of token sizes.

    Raises:
        ConfigError: it is no AutoFormer.
    """
    if not isinstance(backbone, AutoFormer):
        raise ConfigError(
            f"relative_positions 'dense' means nothing on backbone '{backbone.facts.name}', which"
            " is no AutoFormer; leave it at 'carried'"
        )
    with torch.device("meta"):
        twin = DenseAutoFormer(backbone.spec, backbone.subnet, name=backbone.facts.name)
    if backbone.is_resized:
        twin = twin.at_size(backbone.facts.image_shape[1])
    twin.proportional = proportional
    return twin.eval()


class DenseAutoFormer(AutoFormer):
    """AutoFormer with the operators of its authors' code (microsoft/Cream, its supernet classes).

    Relative positions are dense tables (N, N, D), made anew from the sequence length in every
    block; their products put queries and the map in another order of axes, which copies both.
    Every linear's output is multiplied by a scale, 1 where there is none. Not to be run: positions
    are wrong once tokens are gone, in that code as here.
    """

    proportional = True

    def attend(self, index: int, tokens: Tokens, needs: Needs = Needs.NONE) -> tuple[Tensor, Taps]:
        block, tables = self._block(index), self._block(index).tables
        batch, count, _ = tokens.x.shape
        heads, scale = block.heads, self.spec.head_dim**-0.5
        normed = block.norm1(tokens.x)
        qkv = _scaled(block.qkv, normed).reshape(batch, count, 3, heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, H, N, D)
        logits = (q @ k.transpose(-2, -1)) * scale
        turned = q.permute(2, 0, 1, 3).reshape(count, batch * heads, -1)
        places = turned @ _dense(tables.key_rows, tables.key_columns, count).transpose(2, 1)
        places = places.transpose(1, 0).reshape(batch, heads, count, count)
        logits = logits + places * scale
        size = tokens.whole_size() if self.proportional else None
        if size is not None:
            logits = logits + size.log()[:, None, None]
        weights = logits.softmax(dim=-1)
        out = (weights @ v).transpose(1, 2).reshape(batch, count, -1)
        turned = weights.permute(2, 0, 1, 3).reshape(count, batch * heads, -1)
        places = turned @ _dense(tables.value_rows, tables.value_columns, count)
        places = places.transpose(1, 0).reshape(batch, heads, count, -1)
        out = out + places.transpose(2, 1).reshape(batch, count, -1)
        found = {
            Needs.KEYS: ("keys", k),
            Needs.NORMED: ("normed", normed),
            Needs.CLS_ATTENTION: ("cls_attention", weights[:, :, 0]),
        }
        taps = Taps(dict(pair for need, pair in found.items() if need & needs))
        return _scaled(block.proj, out), taps

    def feed(self, index: int, tokens: Tokens) -> Tensor:
        block = self._block(index)
        hidden = F.gelu(_scaled(block.fc1, block.norm2(tokens.x)))
        return _scaled(block.fc2, hidden)


def _scaled(linear: LinearPart, x: Tensor) -> Tensor:
    return linear(x) * 1


def _dense(rows: Tensor, columns: Tensor, count: int) -> Tensor:
    """(N, N, D): the table rows of every pair of `count` tokens, the first a prefix token."""
    patches, limit = count - 1, (rows.shape[0] - 2) // 2
    side = max(int(patches**0.5), 1)
    line = torch.arange(patches, device=rows.device)
    vertical = line[None] // side - line[:, None] // side
    horizontal = line[None] % side - line[:, None] % side
    down, right = (
        F.pad(offset.clamp(-limit, limit) + limit + 1, (1, 0, 1, 0))
        for offset in (vertical, horizontal)
    )
    return rows[down] + columns[right]
