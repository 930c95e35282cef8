"""AutoFormer's published supernets and subnets (autoformer_spaces.yaml), and checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, cast

import torch
from torch import Tensor

from autotok.config import SubnetSpec
from autotok.documents import parse_yaml
from autotok.errors import CheckpointError, misfit

from .autoformer import SupernetSpec
from .fitting import checked_fit, depth_of, load_fitting
from .supernet import AutoFormerSupernet

MARKERS = ("blocks.0.attn.rel_pos_embed_k.embeddings_table_v", "patch_embed_super.proj.weight")


@cache
def _data() -> dict[str, Any]:
    text = files("autotok.backbones").joinpath("autoformer_spaces.yaml").read_text("utf-8")
    data: dict[str, Any] = parse_yaml(text, "autoformer_spaces.yaml")[0]
    return data


def supernet_spec(size: str) -> SupernetSpec:
    """Supernet of size 'tiny', 'small' or 'base'."""
    entry = _data()[size]
    choices = entry["choices"]
    return SupernetSpec(
        **entry["supernet"],
        embed_choices=tuple(choices["embed"]),
        depth_choices=tuple(choices["depth"]),
        heads_choices=tuple(choices["heads"]),
        mlp_ratio_choices=tuple(choices["mlp_ratio"]),
    )


def published_subnet(size: str) -> SubnetSpec:
    """The subnet the paper reports for size 'tiny', 'small' or 'base'."""
    entry = _data()[size]["published"]
    return SubnetSpec(entry["embed_dim"], tuple(entry["heads"]), tuple(entry["mlp_ratios"]))


def is_supernet_checkpoint(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the keys are those of an official AutoFormer supernet."""
    return all(key in tensors for key in MARKERS)


def supernet_from_state_dict(
    tensors: Mapping[str, Tensor], *, origin: str, spec: SupernetSpec | None = None
) -> AutoFormerSupernet:
    """A supernet holding these weights; every width is read from tensor shapes, never assumed.

    `spec`, if given, supplies the choices; otherwise those of the published size with the same
    shapes are taken, or the single largest value of each.
    """
    if not is_supernet_checkpoint(tensors):
        raise CheckpointError(
            f"checkpoint '{origin}' is not an AutoFormer supernet: '{MARKERS[0]}' is missing"
        )
    try:
        found = _spec_from_shapes(tensors, spec)
        with torch.device("meta"):
            shapes = AutoFormerSupernet(found).state_dict()
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint '{origin}' does not fit an AutoFormer supernet ({misfit(error)})"
        ) from error
    fitting = checked_fit(shapes, tensors, origin=origin, name="AutoFormer supernet")
    return cast(AutoFormerSupernet, load_fitting(AutoFormerSupernet(found), fitting))


def _spec_from_shapes(tensors: Mapping[str, Tensor], spec: SupernetSpec | None) -> SupernetSpec:
    patch = tensors["patch_embed_super.proj.weight"]
    embed, channels, patch_size, _ = patch.shape
    table = tensors[MARKERS[0]]
    depth = depth_of(tensors)
    heads = tensors["blocks.0.attn.qkv.weight"].shape[0] // (3 * table.shape[1])
    side = round((tensors["pos_embed"].shape[1] - 1) ** 0.5)
    if side * side != tensors["pos_embed"].shape[1] - 1:
        raise ValueError("its position embedding is not that of a square grid")
    ratio = tensors["blocks.0.fc1.weight"].shape[0] / embed
    known = spec or next(
        (
            s
            for s in map(supernet_spec, _data())
            if (s.embed_dim, s.depth, s.heads) == (embed, depth, heads)
        ),
        None,
    )
    if known and int(embed * known.mlp_ratio) == tensors["blocks.0.fc1.weight"].shape[0]:
        ratio = known.mlp_ratio  # which the rounded width does not give back exactly
    return SupernetSpec(
        embed_dim=embed,
        depth=depth,
        heads=heads,
        mlp_ratio=ratio,
        embed_choices=known.embed_choices if known else (embed,),
        depth_choices=known.depth_choices if known else (depth,),
        heads_choices=known.heads_choices if known else (heads,),
        mlp_ratio_choices=known.mlp_ratio_choices if known else (ratio,),
        image_shape=(channels, side * patch_size, side * patch_size),
        patch_size=patch_size,
        num_classes=tensors["head.weight"].shape[0],
        head_dim=table.shape[1],
        max_offset=(table.shape[0] - 2) // 2,
        pooling=known.pooling if known else "mean",
    )
