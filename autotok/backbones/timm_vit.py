"""timm's `VisionTransformer` and its distilled sibling, and what all of timm's ViTs share.

Covers ViT, DeiT, DeiT-3, AugReg, DINO, DINOv2 with and without registers, CLIP, SigLIP, MAE,
FlexiViT, global average pooling and BEiT-3 style models. Models that do something else are refused
by name with the reason; what the checks miss, the self-test at wrap time catches.
"""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotok.facts import BackboneFacts, BlockFacts
from autotok.tokens import StemParts, Tokens

from .attention import Projection
from .base import in_full, pool_mean, prove
from .timm_heads import head_classes, label_names
from .timm_names import knows_tag
from .timm_refusals import POOLINGS, check_ends, check_kind, refuse, refuse_module
from .torchvision_shim import ensure_torchvision
from .wrapped import BlockParts, WrappedViT, pooling_bias, unchanged

ensure_torchvision()

import timm  # noqa: E402
from timm.layers import Attention, Mlp  # noqa: E402
from timm.models.deit import VisionTransformerDistilled  # noqa: E402
from timm.models.vision_transformer import Block, ResPostBlock  # noqa: E402
from timm.models.vision_transformer import VisionTransformer as VisionTransformer  # noqa: E402


class ClassAndMeanViT(VisionTransformer):  # type: ignore[misc]
    """timm's ViT under a head that reads class token and mean of the patches, side by side, as
    DINOv2's linear classifiers do."""

    def pool(self, x: Tensor, pool_type: str | None = None) -> Tensor:
        """(B, 2 C)."""
        return torch.cat([x[:, 0], x[:, self.num_prefix_tokens :].mean(dim=1)], dim=1)


def under_both(model: Any) -> nn.Module:
    """A new plain model of timm with the head of `ClassAndMeanViT`, on its device."""
    model.__class__ = ClassAndMeanViT
    classes, weight = model.num_classes, model.head.weight
    model.head = nn.Linear(2 * model.embed_dim, classes, device=weight.device, dtype=weight.dtype)
    made: nn.Module = model
    return made


OWN_POOLINGS = {VisionTransformerDistilled: "cls+dist", ClassAndMeanViT: "cls+mean"}
"""Of classes that read out in a way of their own."""


class TimmModel(WrappedViT):
    """What timm's ViTs have in common: names of their parts, pooling and head, preprocessing."""

    family = "timm_vit"
    carries_positions = False
    one_size = ""
    """See `BackboneFacts.one_size`."""

    def __init__(self, model: nn.Module, *, name: str | None = None) -> None:
        label = name or model_name(model)
        self.check(model, label)
        facts = timm_facts(
            model, label, family=self.family, carries_positions=self.carries_positions
        )
        super().__init__(model, dataclasses.replace(facts, one_size=self.one_size))
        self.take_tables()
        prove(self, model)

    def check(self, model: nn.Module, name: str) -> None:
        """Raise `UnsupportedBackbone` naming the first thing the adapter cannot run."""
        raise NotImplementedError

    def entering(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        patches = self.patches_of(images)
        return self.placed(patches), patches

    def patches_of(self, images: Tensor) -> Tensor:
        """(B, n, C), the patches' embeddings alone."""
        if not self.is_resized:
            return _in_a_row(self.model.patch_embed(images))
        return self.in_a_row(images)

    def in_a_row(self, images: Tensor) -> Tensor:
        """The same of images of any whole number of patches."""
        stem: Any = self.model.patch_embed
        return cast(Tensor, stem.norm(stem.proj(images).flatten(2).transpose(1, 2)))

    def placed(self, patches: Tensor) -> Tensor:
        """(B, N, C), prefix tokens in front and positions added, of patches (B, n, C)."""
        model, batch = self.model, patches.shape[0]
        table: Any = getattr(model, "pos_embed", None)
        table = None if table is None else self.placed_at_size(table)
        alone = table is not None and table.shape[1] == patches.shape[1]
        given = [getattr(model, f"{name}_token", None) for name in ("cls", "dist", "reg")]
        prefix = [token.expand(batch, -1, -1) for token in given if token is not None]
        x = torch.cat([*prefix, patches + table if alone else patches], dim=1)
        if table is not None and not alone:
            x = x + table
        dropout = getattr(model, "pos_drop", unchanged)
        return cast(Tensor, dropout(x))

    def position_table(self) -> Tensor:
        table: Tensor | None = self.model.pos_embed
        assert table is not None, "methods that read it require 'position_table'"
        return self.placed_at_size(table)[0, -self.facts.num_patches :]

    @in_full
    def token_features(self, tokens: Tokens) -> Tensor:
        return cast(Tensor, self.model.norm(tokens.x))

    @in_full
    def readout(self, tokens: Tokens) -> Tensor:
        model, prefix = self.model, tokens.num_prefix
        x = self.token_features(tokens)
        pooled: Tensor
        if self.facts.pooling == "cls+dist":
            return cast(Tensor, model.forward_head(x))
        if self.facts.pooling == "cls":
            pooled = x[:, 0]
        elif self.facts.pooling in ("mean", "cls+mean"):
            pooled = pool_mean(x[:, prefix:], tokens)
            if self.facts.pooling == "cls+mean":
                pooled = torch.cat([x[:, 0], pooled], dim=1)
        else:
            with_prefix = getattr(model, "pool_include_prefix", True)
            seen = pooling_bias(tokens, x.dtype, prefix=with_prefix)
            pooled = model.attn_pool(x if with_prefix else x[:, prefix:], attn_mask=seen)
        return cast(Tensor, model.head(model.head_drop(model.fc_norm(pooled))))

    @property
    def class_names(self) -> tuple[str, ...]:
        """The model's own, where its configuration names them; else ()."""
        return label_names(self.model, self.facts.num_classes)

    def preprocessing(self) -> dict[str, Any]:
        """timm's evaluation transform as data: mean, std, interpolation, crop_pct, crop_mode."""
        config = timm.data.resolve_model_data_config(self.model)
        return {
            key: config[key] for key in ("mean", "std", "interpolation", "crop_pct", "crop_mode")
        }


class TimmViT(TimmModel):
    """A plain ViT of timm, class token, distillation token and registers as it has them."""

    def check(self, model: nn.Module, name: str) -> None:
        check_timm_model(model, name)

    def entering(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.is_resized:
            return super().entering(images)
        patches = self.model.patch_embed(images)
        return self.model._pos_embed(patches), _in_a_row(patches)

    def before_blocks(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.model.norm_pre(x))

    def stem_parts(self) -> StemParts:
        model, facts = self.model, self.facts
        given = (model.cls_token, getattr(model, "dist_token", None), model.reg_token)
        prefix = torch.cat([token for token in given if token is not None], dim=1)
        table = F.pad(self.placed_at_size(model.pos_embed), (0, 0, facts.num_prefix, 0))
        table = table[:, -(facts.num_prefix + facts.num_patches) :]  # has rows for prefix or not

        def enter(x: Tensor) -> Tensor:
            return cast(Tensor, model.norm_pre(model.pos_drop(x)))

        return StemParts(self.in_a_row, prefix, table, enter, model.norm)

    def parts(self, block: Any) -> BlockParts:
        return timm_parts(block, (block.attn.qkv,), post_norm=type(block) is ResPostBlock)


def _in_a_row(patches: Tensor) -> Tensor:
    """(B, n, C) of patches that may be (B, rows, columns, C), where images may have any size."""
    return patches.flatten(1, 2) if patches.dim() == 4 else patches


def timm_parts(block: Any, qkv: tuple[Projection, ...], *, post_norm: bool = False) -> BlockParts:
    """The parts of a block of any of timm's ViTs; `post_norm`: its norms come after branches."""
    attn = block.attn

    def out(heads: Tensor, gate: Tensor | None) -> Tensor:
        heads = getattr(attn, "norm", unchanged)(heads)
        branch = attn.proj_drop(attn.proj(heads if gate is None else heads * gate))
        branch = block.norm1(branch) if post_norm else _scaled(block, 1, branch)
        return cast(Tensor, block.drop_path1(branch))

    def feed(x: Tensor) -> Tensor:
        if post_norm:
            return cast(Tensor, block.drop_path2(block.norm2(block.mlp(x))))
        return cast(Tensor, block.drop_path2(_scaled(block, 2, block.mlp(block.norm2(x)))))

    gate = getattr(attn, "gate", None)
    return BlockParts(
        norm=unchanged if post_norm else block.norm1,
        qkv=qkv,
        head_dim=attn.proj.in_features // attn.num_heads,
        out=out,
        feed=feed,
        norms=(getattr(attn, "q_norm", unchanged), getattr(attn, "k_norm", unchanged)),
        gate=None if gate is None else lambda normed: gate(normed).sigmoid(),
    )


def _scaled(block: Any, which: int, branch: Tensor) -> Tensor:
    """A branch under the block's LayerScale, a module or a vector, where it has one."""
    if hasattr(block, f"ls{which}"):
        return cast(Tensor, getattr(block, f"ls{which}")(branch))
    gamma: Tensor | None = getattr(block, f"gamma_{which}", None)
    return branch if gamma is None else gamma * branch


def imagenet_synsets(num_classes: int) -> tuple[str, ...]:
    """The synsets of the ImageNet of so many classes, in class order; () where there is none."""
    subset = timm.data.infer_imagenet_subset({"num_classes": num_classes})
    return () if subset is None else tuple(timm.data.ImageNetInfo(subset).label_names())


def model_name(model: nn.Module) -> str:
    """What timm calls the architecture of a model, with the tag of its weights where these are not
    the usual ones but known to it, else its class."""
    config = getattr(model, "pretrained_cfg", None) or {}
    name, tag = str(config.get("architecture") or type(model).__name__), config.get("tag")
    usual = timm.models.get_pretrained_cfg(name) if tag and timm.models.is_model(name) else None
    if usual is None or usual.tag == tag or not knows_tag(f"{name}.{tag}"):
        return name
    return f"{name}.{tag}"


def check_timm_model(model: nn.Module, name: str) -> None:
    """Raise `UnsupportedBackbone` naming the first thing the adapter of plain ViTs cannot run."""
    refuse_module(name, type(model).__module__.rsplit(".", 1)[-1])
    timm_model: Any = model
    if type(model) not in (VisionTransformer, VisionTransformerDistilled, ClassAndMeanViT):
        kind = type(model).__name__
        refuse(name, f"its class is {kind}, adapters exist for timm's VisionTransformer")
    for index, block in enumerate(timm_model.blocks):
        check_kind("block", index, block, (Block, ResPostBlock), name)
        check_kind("attention", index, block.attn, (Attention,), name)
    if timm_model.global_pool == "avg" and timm_model.pool_include_prefix:
        refuse(name, "its average pooling includes prefix tokens")
    check_ends(timm_model, name)


def timm_facts(
    model: Any, name: str, *, family: str, carries_positions: bool = False
) -> BackboneFacts:
    """What a ViT of timm says about itself."""
    rows, columns = model.patch_embed.grid_size
    proj = model.patch_embed.proj
    pooling = OWN_POOLINGS.get(type(model)) or POOLINGS[model.global_pool]
    fixed, per_token = _readout_macs(model)
    return BackboneFacts(
        name=name,
        family=family,
        blocks=tuple(_block_facts(block) for block in model.blocks),
        num_prefix=model.num_prefix_tokens,
        has_cls=model.cls_token is not None,
        cls_is_supervised=model.cls_token is not None and pooling.startswith("cls"),
        grid=(rows, columns),
        pooling=pooling,
        carries_positions=carries_positions,
        has_position_table=getattr(model, "pos_embed", None) is not None,
        image_shape=(proj.in_channels, *model.patch_embed.img_size),
        patch_size=tuple(model.patch_embed.patch_size),
        num_classes=head_classes(model),
        stem_macs=rows * columns * proj.weight.numel(),
        plain_stem=family == "timm_vit" and _is_plain(model),
        readout_macs=fixed,
        readout_macs_per_token=per_token,
        params=sum(p.numel() for p in model.parameters()),
    )


def _is_plain(model: Any) -> bool:
    """Whether `stem_parts` can tell the stem apart."""
    proj, table = model.patch_embed.proj, getattr(model, "pos_embed", None)
    return (
        type(model) in (VisionTransformer, VisionTransformerDistilled)
        and model.cls_token is not None
        and table is not None
        and isinstance(proj, nn.Conv2d)
        and proj.kernel_size == proj.stride
        and isinstance(model.patch_drop, nn.Identity)
    )


def _block_facts(block: Any) -> BlockFacts:
    attn = block.attn
    width, gate = attn.proj.out_features, getattr(attn, "gate", None)
    linears = [m for m in block.mlp.modules() if isinstance(m, nn.Linear)]
    matrices = 2 if type(block.mlp) is Mlp else 3
    return BlockFacts(
        width=width,
        heads=attn.num_heads,
        head_dim=attn.proj.in_features // attn.num_heads,
        hidden=sum(m.weight.numel() for m in linears) // (matrices * width),
        params=sum(p.numel() for p in block.parameters()),
        linear_macs_extra_per_token=0 if gate is None else gate.weight.numel(),
        mlp_matrices=matrices,
    )


def _readout_macs(model: Any) -> tuple[int, int]:
    """(fixed, per token) multiply-accumulates of pooling and heads."""
    heads = [model.head, getattr(model, "head_dist", None)]
    fixed = sum(h.weight.numel() for h in heads if isinstance(h, nn.Linear))
    pool = getattr(model, "attn_pool", None)
    if pool is None:
        return fixed, 0
    width, latents = model.embed_dim, pool.latent_len
    linears = [m for part in (pool.q, pool.proj, pool.mlp) for m in part.modules()]
    fixed += latents * sum(m.weight.numel() for m in linears if isinstance(m, nn.Linear))
    per_token = pool.kv.weight.numel() + 2 * latents * width
    without = model.num_prefix_tokens if not getattr(model, "pool_include_prefix", True) else 0
    return fixed - without * per_token, per_token
