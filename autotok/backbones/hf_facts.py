"""What a ViT of transformers says about itself: shapes, prefix tokens, pooling, costs."""

from __future__ import annotations

from typing import Any

from torch import nn

from autotok.errors import UnsupportedBackbone
from autotok.facts import BackboneFacts, BlockFacts

from .hf_layouts import LAYOUTS, MODELS, TowerLayout


def sides_of(size: int | list[int] | tuple[int, ...]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def hf_facts(
    model: Any, tower: Any, name: str, image_size: int | tuple[int, int] | None
) -> BackboneFacts:
    own, layout, config = (
        MODELS[type(model).__name__],
        LAYOUTS[tower.config.model_type],
        tower.config,
    )
    stem = tower.get_submodule(layout.stem)
    own_sides = sides_of(config.image_size)
    height, width = own_sides if image_size is None else sides_of(image_size)
    if height != width and (height, width) != own_sides:
        raise UnsupportedBackbone(
            f"backbone '{name}' is not supported: its preprocessor makes images of {height} x"
            f" {width} pixels, and its configuration says {own_sides[0]} x {own_sides[1]}; correct"
            " image_size in config.json, or the preprocessor's file"
        )
    if not layout.resizes:
        height, width = own_sides
    if layout.table and own_sides[0] != own_sides[1] and (height, width) != own_sides:
        raise UnsupportedBackbone(
            f"backbone '{name}' is of {own_sides[0]} x {own_sides[1]} pixels and cannot run at"
            f" {height} x {width}: transformers resamples positions of squares alone; leave"
            " image_size out"
        )
    rows, columns = height // stem.kernel_size[0], width // stem.kernel_size[1]
    pooling = _pooling(tower, own.pooling)
    prefix = _num_prefix(tower)
    blocks = tower.get_submodule(layout.blocks)
    fixed, per_token = _readout_macs(model, tower, pooling)
    return BackboneFacts(
        name=name,
        family="transformers",
        blocks=tuple(_block_facts(block, layout) for block in blocks),
        num_prefix=prefix,
        has_cls=prefix > 0,
        cls_is_supervised=prefix > 0 and pooling != "mean",
        grid=(rows, columns),
        pooling=pooling,
        carries_positions=_looks_up(tower, blocks),
        has_position_table=bool(layout.table) and _has(tower, layout.table),
        image_shape=(stem.in_channels, height, width),
        patch_size=(stem.kernel_size[0], stem.kernel_size[1]),
        num_classes=getattr(model.config, "num_labels", 0) if own.primary == "logits" else 0,
        stem_macs=rows * columns * stem.weight.numel(),
        readout_macs=fixed,
        readout_macs_per_token=per_token,
        params=sum(p.numel() for p in model.parameters()),
        one_size="" if layout.resizes else "its relative position biases were learned for one grid",
    )


def _pooling(tower: Any, named: str) -> str:
    """How the tokens are read out, as the configuration says where the class leaves it open."""
    if named == "map" and not tower.use_head:
        raise UnsupportedBackbone(
            f"backbone '{type(tower).__name__}' is not supported: its configuration leaves the"
            " pooling out (vision_use_head), so that its output is its tokens; give a model with a"
            " head"
        )
    means = tower.config.model_type == "beit" and tower.pooler is not None
    return "mean" if means and tower.config.use_mean_pooling else named


def _num_prefix(tower: Any) -> int:
    """Class, distillation and register tokens."""
    embeddings = tower.embeddings
    single = ("cls_token", "class_embedding", "distillation_token")
    registers = getattr(embeddings, "register_tokens", None)
    own = sum(getattr(embeddings, name, None) is not None for name in single)
    return own + (0 if registers is None else int(registers.shape[1]))


def _looks_up(tower: Any, blocks: Any) -> bool:
    """Whether blocks ask where tokens came from."""
    shared = getattr(tower, "shared_position_bias", None)
    own = [getattr(block, "relative_position_bias", None) for block in blocks]
    return hasattr(tower, "rope_embeddings") or any(b is not None for b in (shared, *own))


def _has(tower: Any, name: str) -> bool:
    owner, _, last = name.rpartition(".")
    return getattr(tower.get_submodule(owner), last) is not None


def _block_facts(block: Any, layout: TowerLayout) -> BlockFacts:
    attn = getattr(block, layout.attention)
    width, inner = attn.q_proj.in_features, attn.q_proj.out_features
    linears = [m for m in block.mlp.modules() if isinstance(m, nn.Linear)]
    return BlockFacts(
        width=width,
        heads=inner // attn.head_dim,
        head_dim=attn.head_dim,
        hidden=sum(m.weight.numel() for m in linears) // (len(linears) * width),
        params=sum(p.numel() for p in block.parameters()),
        mlp_matrices=len(linears),
    )


def _readout_macs(model: Any, tower: Any, pooling: str) -> tuple[int, int]:
    """(fixed, per token) multiply-accumulates of pooling and heads."""
    beside = (m for name, m in model.named_children() if isinstance(m, nn.Linear))
    fixed = sum(m.weight.numel() for m in beside)
    dense = getattr(getattr(tower, "pooler", None), "dense", None)
    fixed += 0 if dense is None else dense.weight.numel()
    if pooling != "map":
        return fixed, 0
    head, width = tower.head, tower.config.hidden_size
    mlp = sum(m.weight.numel() for m in head.mlp.modules() if isinstance(m, nn.Linear))
    # the learned query's projection and the output's; keys, values and two products for each token
    return fixed + 2 * width**2 + mlp, 2 * width**2 + 2 * width
