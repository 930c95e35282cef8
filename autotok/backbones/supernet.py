"""AutoFormer supernets: entangled weights under the official key names, and views that run them.

`AutoFormerSupernet` holds the weights of every subnet; `SupernetView` runs one of them without
copying, gradients included, so it also trains; `AutoFormerSupernet.cut` copies one out.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from autotok.config import SubnetSpec

from .attention import LinearPart
from .autoformer import (
    AutoFormer,
    AutoFormerBase,
    BlockWeights,
    NormWeights,
    StemWeights,
    SupernetSpec,
    subnet_facts,
)
from .relative_attention import RelativeTables


class _OfficialAttention(nn.Module):
    """Parameter names and shapes of the official attention; the forward is elsewhere."""

    def __init__(self, width: int, inner: int, head_dim: int, max_offset: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * inner)
        self.proj = nn.Linear(inner, width)
        self.rel_pos_embed_k = _OfficialTables(head_dim, max_offset)
        self.rel_pos_embed_v = _OfficialTables(head_dim, max_offset)


class _OfficialTables(nn.Module):
    def __init__(self, head_dim: int, max_offset: int) -> None:
        super().__init__()
        shape = (2 * max_offset + 2, head_dim)
        self.embeddings_table_v = nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=0.02))
        self.embeddings_table_h = nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=0.02))


class _OfficialBlock(nn.Module):
    def __init__(self, spec: SupernetSpec) -> None:
        super().__init__()
        width, inner = spec.embed_dim, spec.heads * spec.head_dim
        hidden = int(width * spec.mlp_ratio)
        self.attn_layer_norm = nn.LayerNorm(width)
        self.attn = _OfficialAttention(width, inner, spec.head_dim, spec.max_offset)
        self.ffn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)


class _OfficialPatchEmbed(nn.Module):
    def __init__(self, spec: SupernetSpec) -> None:
        super().__init__()
        self.proj = nn.Conv2d(spec.image_shape[0], spec.embed_dim, spec.patch_size, spec.patch_size)


class AutoFormerSupernet(nn.Module):
    """Entangled weights of every subnet, under the official names and shapes.

    It has no forward of its own: run a subnet through `SupernetView(supernet, subnet)`.
    """

    def __init__(self, spec: SupernetSpec) -> None:
        super().__init__()
        self.spec = spec
        self.patch_embed_super = _OfficialPatchEmbed(spec)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, spec.embed_dim))
        count = spec.grid[0] * spec.grid[1]
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + count, spec.embed_dim))
        self.blocks = nn.ModuleList(_OfficialBlock(spec) for _ in range(spec.depth))
        self.norm = nn.LayerNorm(spec.embed_dim)
        self.head = nn.Linear(spec.embed_dim, spec.num_classes)
        self._initialise()

    def _initialise(self) -> None:
        for parameter in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(parameter, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def cut(self, subnet: SubnetSpec, *, name: str = "autoformer") -> AutoFormer:
        """A stand-alone copy of one subnet; its outputs equal the view's."""
        view = SupernetView(self, subnet, name=name)
        model = AutoFormer(self.spec, subnet, name=name)
        model.load_from(view)
        return model


class SupernetView(AutoFormerBase):
    """One subnet of a supernet, run on the shared weights."""

    def __init__(
        self, supernet: AutoFormerSupernet, subnet: SubnetSpec, *, name: str = "autoformer"
    ) -> None:
        super().__init__()
        supernet.spec.check(subnet)
        self.supernet = supernet
        self.subnet = subnet
        self.facts = subnet_facts(supernet.spec, subnet, name=name)

    def unused(self) -> Iterator[tuple[str, nn.Module]]:
        yield from ((f"blocks.{i}", block) for i, block in enumerate(self.supernet.blocks))

    def alone(self) -> AutoFormer:
        cut = self.supernet.cut(self.subnet, name=self.facts.name)
        cut = cut.at_size(self.facts.image_shape[1]) if self.is_resized else cut
        return cut.to(next(self.parameters())).train(self.training)

    def _stem(self) -> StemWeights:
        net, width = self.supernet, self.subnet.embed_dim
        conv = net.patch_embed_super.proj
        assert conv.bias is not None
        return StemWeights(
            patch=LinearPart(conv.weight[:width], conv.bias[:width]),
            cls_token=net.cls_token[..., :width],
            pos_embed=net.pos_embed[..., :width],
            norm=NormWeights(net.norm.weight[:width], net.norm.bias[:width]),
            head=LinearPart(net.head.weight[:, :width], net.head.bias),
        )

    def _block(self, index: int) -> BlockWeights:
        block = self.supernet.blocks[index]
        assert isinstance(block, _OfficialBlock)
        width, heads = self.subnet.embed_dim, self.subnet.heads[index]
        inner, hidden = heads * self.supernet.spec.head_dim, self.subnet.hidden(index)
        attn = block.attn
        rows = attn.qkv.weight[: 3 * inner, :width]
        # the official layout interleaves q, k, v row by row in the weight, but not in the bias
        qkv = rows.reshape(inner, 3, width).transpose(0, 1).reshape(3 * inner, width)
        return BlockWeights(
            heads=heads,
            norm1=NormWeights(
                block.attn_layer_norm.weight[:width], block.attn_layer_norm.bias[:width]
            ),
            qkv=LinearPart(qkv, attn.qkv.bias[: 3 * inner]),
            proj=LinearPart(attn.proj.weight[:width, :inner], attn.proj.bias[:width]),
            tables=RelativeTables(
                key_rows=attn.rel_pos_embed_k.embeddings_table_v,
                key_columns=attn.rel_pos_embed_k.embeddings_table_h,
                value_rows=attn.rel_pos_embed_v.embeddings_table_v,
                value_columns=attn.rel_pos_embed_v.embeddings_table_h,
            ),
            norm2=NormWeights(
                block.ffn_layer_norm.weight[:width], block.ffn_layer_norm.bias[:width]
            ),
            fc1=LinearPart(block.fc1.weight[:hidden, :width], block.fc1.bias[:hidden]),
            fc2=LinearPart(block.fc2.weight[:width, :hidden], block.fc2.bias[:width]),
        )
