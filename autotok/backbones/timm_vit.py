"""timm's `VisionTransformer` and its distilled sibling.

Covers ViT, DeiT, DeiT-3, AugReg, DINO, DINOv2 with and without registers, CLIP, SigLIP, MAE, global
average pooling and BEiT-3 style models. Models that do something else are refused by name with the
reason; what the checks miss, the self-test at wrap time catches.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from autotok.errors import UnsupportedBackbone
from autotok.facts import BackboneFacts, BlockFacts
from autotok.tokens import Needs, Taps, Tokens, grid_coords

from .attention import attention, scouted
from .base import Backbone, in_full, pool_mean, prove
from .torchvision_shim import ensure_torchvision

ensure_torchvision()

import timm  # noqa: E402
from timm.layers import Attention, GluMlp, Mlp, PatchEmbed, SwiGLU  # noqa: E402
from timm.models.deit import VisionTransformerDistilled  # noqa: E402
from timm.models.vision_transformer import Block, VisionTransformer  # noqa: E402

__all__ = [
    "TimmViT",
    "VisionTransformer",
    "imagenet_synsets",
    "model_name",
    "check_timm_model",
    "refuse_module",
]

REFUSED = {
    "swin": "attends inside windows",
    "hiera": "is a pyramid of windows",
    "volo": "mixes outlook attention and a pyramid",
    "crossvit": "runs two token streams",
    "levit": "is a convolutional pyramid with per-offset biases",
    "tiny_vit": "is a pyramid of windows",
    "efficientvit": "is a convolutional pyramid",
    "mobilevit": "mixes convolutions and transformers",
    "xcit": "attends over channels",
    "cait": "has a separate class-attention stage",
    "beit": "ties a relative position bias to the full grid",
    "vision_transformer_relpos": "ties a relative position bias to the full grid",
    "vision_transformer_sam": "attends inside windows on 4-D tokens",
    "naflexvit": "takes variable-length inputs with masks",
    "eva": "needs an adapter for rotary positions, which autotok does not have yet",
    "vision_transformer_hybrid": "has a convolutional stem, which autotok does not count yet",
}


class TimmViT(Backbone):
    """Runs a timm ViT's own modules through the engine's four steps; the model is not changed."""

    def __init__(self, model: nn.Module, *, name: str | None = None) -> None:
        super().__init__()
        self.model: Any = model
        self.training = model.training
        label = name or model_name(model)
        check_timm_model(model, label)
        self.facts = _facts(self.model, label)
        prove(self, model)

    @in_full
    def embed(
        self, images: Tensor, needs: Needs = Needs.NONE, *, trace: bool = False
    ) -> tuple[Tokens, Taps]:
        patches = self.model.patch_embed(images)  # (B, n, C)
        x = self.model.norm_pre(self.model._pos_embed(patches))
        taps: dict[str, Tensor] = {}
        if needs & Needs.EMBEDDING:
            taps |= {"patch_embedding": patches, "position_table": self._position_table()}
        if needs & Needs.IMAGE:
            taps["image"] = images
        coords = source = None
        if needs & Needs.GRID:
            coords = grid_coords(self.facts.grid, device=x.device).expand(x.shape[0], -1, -1)
        if trace:
            eye = torch.eye(self.facts.num_patches, dtype=torch.bool, device=x.device)
            source = eye.expand(x.shape[0], -1, -1)
        tokens = Tokens(x, self.facts.num_prefix, self.facts.grid, coords=coords, source=source)
        return tokens, Taps(taps)

    def attend(self, index: int, tokens: Tokens, needs: Needs = Needs.NONE) -> tuple[Tensor, Taps]:
        block = self.model.blocks[index]
        attn = block.attn
        batch, count, _ = tokens.x.shape
        normed = block.norm1(tokens.x)
        qkv = attn.qkv(normed).reshape(batch, count, 3, attn.num_heads, attn.head_dim)
        if not needs & Needs.NORMED:
            del normed  # attention's memory peaks without it
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, H, N, D)
        out, taps = attention(attn.q_norm(q), attn.k_norm(k), v, tokens, needs)
        if needs & Needs.NORMED:
            taps = taps.having("normed", normed)
        out = attn.norm(out.transpose(1, 2).reshape(batch, count, attn.attn_dim))
        return block.drop_path1(block.ls1(attn.proj_drop(attn.proj(out)))), taps

    def scout(self, index: int, tokens: Tokens, needs: Needs) -> Taps:
        block = self.model.blocks[index]
        attn = block.attn
        normed = block.norm1(tokens.x)
        norms = (attn.q_norm, attn.k_norm, nn.Identity())
        return scouted(normed, attn.qkv, attn.head_dim, needs, norms)

    def feed(self, index: int, tokens: Tokens) -> Tensor:
        block = self.model.blocks[index]
        branch: Tensor = block.drop_path2(block.ls2(block.mlp(block.norm2(tokens.x))))
        return branch

    @in_full
    def readout(self, tokens: Tokens) -> Tensor:
        model = self.model
        x = model.norm(tokens.x)
        logits: Tensor
        uneven = any(part is not None for part in (tokens.size, tokens.mask, tokens.live))
        if self.facts.pooling == "mean" and uneven:
            pooled = pool_mean(x[:, tokens.num_prefix :], tokens)
            logits = model.head(model.head_drop(model.fc_norm(pooled)))
        elif self.facts.pooling == "map" and tokens.live is not None:
            counts = tokens.live.sum(dim=1) + tokens.num_prefix
            rows = [model.forward_head(x[i : i + 1, :n]) for i, n in enumerate(counts.tolist())]
            logits = torch.cat(rows)  # timm's pooling takes no mask: image by image
        else:
            logits = model.forward_head(x)
        return logits

    def unused(self) -> Iterator[tuple[str, nn.Module]]:
        yield "the model", self.model
        for index, block in enumerate(self.model.blocks):
            yield f"blocks.{index}", block
            yield f"blocks.{index}.attn", block.attn

    @property
    def weights(self) -> nn.Module:
        model: nn.Module = self.model
        return model

    def _position_table(self) -> Tensor:
        table: Tensor | None = self.model.pos_embed
        assert table is not None, "methods that read it require 'position_table'"
        return table[0, -self.facts.num_patches :]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The model's own, where its configuration names them; else ()."""
        config = getattr(self.model, "pretrained_cfg", None) or {}
        return tuple(map(str, config.get("label_names") or ()))

    def preprocessing(self) -> dict[str, Any]:
        """timm's evaluation transform as data: mean, std, interpolation, crop_pct, crop_mode."""
        config = timm.data.resolve_model_data_config(self.model)
        return {
            key: config[key] for key in ("mean", "std", "interpolation", "crop_pct", "crop_mode")
        }


def imagenet_synsets(num_classes: int) -> tuple[str, ...]:
    """The synsets of the ImageNet of so many classes, in class order; () where there is none."""
    subset = timm.data.infer_imagenet_subset({"num_classes": num_classes})
    return () if subset is None else tuple(timm.data.ImageNetInfo(subset).label_names())


def model_name(model: nn.Module) -> str:
    """What timm calls the architecture of a model, else its class."""
    config = getattr(model, "pretrained_cfg", None) or {}
    return str(config.get("architecture") or type(model).__name__)


def refuse_module(name: str, module: str) -> None:
    """Raise `UnsupportedBackbone` with the reason where one is known for a module of timm."""
    for prefix, reason in REFUSED.items():
        if module == prefix or (module.startswith(prefix) and not module.startswith("vision_")):
            raise UnsupportedBackbone(
                f"backbone '{name}' is not supported: it {reason}; use a plain ViT or DeiT"
                " from timm"
            )


def check_timm_model(model: nn.Module, name: str) -> None:
    """Raise `UnsupportedBackbone` naming the first thing the adapter cannot run."""
    refuse_module(name, type(model).__module__.rsplit(".", 1)[-1])

    def refuse(what: str) -> None:
        raise UnsupportedBackbone(f"backbone '{name}' is not supported: {what}")

    if type(model) not in (VisionTransformer, VisionTransformerDistilled):
        refuse(f"its class is {type(model).__name__}, adapters exist for timm's VisionTransformer")
    timm_model: Any = model
    for index, block in enumerate(timm_model.blocks):
        if type(block) is not Block:
            refuse(f"block {index} is a {type(block).__name__}, expected timm's plain Block")
        if type(block.attn) is not Attention:
            refuse(f"attention {index} is a {type(block.attn).__name__}, expected timm's Attention")
        if getattr(block.attn, "gate", None) is not None:  # older timm has none
            refuse("its attention is gated")
        if type(block.mlp) not in (Mlp, GluMlp, SwiGLU):
            refuse(f"MLP {index} is a {type(block.mlp).__name__}")
    if type(timm_model.patch_embed) is not PatchEmbed:
        refuse(f"its stem is a {type(timm_model.patch_embed).__name__}, expected timm's PatchEmbed")
    if timm_model.dynamic_img_size:
        refuse("dynamic_img_size is on; create it with a fixed image size")
    if type(timm_model.patch_drop) is not nn.Identity:
        refuse("patch dropout is active; create it with patch_drop_rate=0")
    if timm_model.global_pool not in ("token", "avg", "map"):
        refuse(f"pooling '{timm_model.global_pool}' is unknown, allowed: token, avg, map")
    if timm_model.global_pool == "avg" and timm_model.pool_include_prefix:
        refuse("its average pooling includes prefix tokens")


def _facts(model: Any, name: str) -> BackboneFacts:
    distilled = type(model) is VisionTransformerDistilled
    grid = tuple(model.patch_embed.grid_size)
    proj = model.patch_embed.proj
    has_cls = model.cls_token is not None
    pooling = (
        "cls+dist"
        if distilled
        else {"token": "cls", "avg": "mean", "map": "map"}[model.global_pool]
    )
    num_patches = grid[0] * grid[1]
    readout, per_token = _readout_macs(model)
    return BackboneFacts(
        name=name,
        family="timm_vit",
        blocks=tuple(_block_facts(block) for block in model.blocks),
        num_prefix=model.num_prefix_tokens,
        has_cls=has_cls,
        cls_is_supervised=has_cls and pooling in ("cls", "cls+dist"),
        grid=(grid[0], grid[1]),
        pooling=pooling,
        carries_positions=False,
        has_position_table=model.pos_embed is not None,
        image_shape=(proj.in_channels, *model.patch_embed.img_size),
        patch_size=tuple(model.patch_embed.patch_size),
        num_classes=model.num_classes,
        stem_macs=num_patches * proj.weight.numel(),
        readout_macs=readout,
        readout_macs_per_token=per_token,
        params=sum(p.numel() for p in model.parameters()),
    )


def _block_facts(block: Any) -> BlockFacts:
    attn = block.attn
    width = attn.qkv.in_features
    linears = [m for m in block.mlp.modules() if isinstance(m, nn.Linear)]
    matrices = 2 if type(block.mlp) is Mlp else 3
    return BlockFacts(
        width=width,
        heads=attn.num_heads,
        head_dim=attn.head_dim,
        hidden=sum(m.weight.numel() for m in linears) // (matrices * width),
        params=sum(p.numel() for p in block.parameters()),
        mlp_matrices=matrices,
    )


def _readout_macs(model: Any) -> tuple[int, int]:
    """(fixed, per token) multiply-accumulates of pooling and heads."""
    heads = [model.head, getattr(model, "head_dist", None)]
    fixed = sum(h.weight.numel() for h in heads if isinstance(h, nn.Linear))
    pool = model.attn_pool
    if pool is None:
        return fixed, 0
    width, latents = model.embed_dim, pool.latent_len
    mlp = sum(m.weight.numel() for m in pool.mlp.modules() if isinstance(m, nn.Linear))
    fixed += latents * (pool.q.weight.numel() + pool.proj.weight.numel() + mlp)
    return fixed, pool.kv.weight.numel() + 2 * latents * width
