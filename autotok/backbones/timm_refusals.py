"""What timm's adapters refuse, and why: one sentence for each, by the model's name."""

from __future__ import annotations

from collections.abc import Sequence
from types import NoneType
from typing import Any, NoReturn

from torch import nn

from autotok.errors import UnsupportedBackbone

from .torchvision_shim import ensure_torchvision

ensure_torchvision()

from timm.layers import GluMlp, Mlp, PatchEmbed, SwiGLU  # noqa: E402

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
    "vision_transformer_sam": "attends inside windows on 4-D tokens",
    "naflexvit": "takes variable-length inputs with masks",
    "vision_transformer_hybrid": "has a convolutional stem, which autotok does not count yet",
}


POOLINGS = {"token": "cls", "avg": "mean", "map": "map"}
"""timm's words, and ours."""
UNLIKE = {
    "ParallelScalingBlock": "its blocks run attention and MLP side by side, so that tokens have no"
    " place to go between the two",
    "DiffParallelScalingBlock": "its blocks run attention and MLP side by side, so that tokens have"
    " no place to go between the two",
    "ParallelThingsBlock": "its blocks run several attentions side by side, each with its own keys,"
    " and methods judge tokens by one",
    "DiffAttention": "its attention is the difference of two maps, and methods judge tokens by one",
}
"""Why blocks and attentions of timm that are none of the plain kind are not run, by class."""


def refuse_module(name: str, module: str) -> None:
    """Raise `UnsupportedBackbone` with the reason where one is known for a module of timm."""
    for prefix, reason in REFUSED.items():
        if module == prefix or (module.startswith(prefix) and not module.startswith("vision_")):
            raise UnsupportedBackbone(
                f"backbone '{name}' is not supported: it {reason}; use a plain ViT or DeiT"
                " from timm"
            )


def check_kind(
    word: str, index: int, part: nn.Module, kinds: Sequence[type[nn.Module]], name: str
) -> None:
    """Raise `UnsupportedBackbone` where a block, or its attention, is of no class that is run."""
    found = type(part).__name__
    if type(part) not in kinds:
        expected = f"{word} {index} is a {found}, expected timm's {kinds[0].__name__}"
        refuse(name, f"{UNLIKE[found]} ({found})" if found in UNLIKE else expected)


def check_model(
    model: Any,
    name: str,
    whole: type[nn.Module],
    blocks: Sequence[type[nn.Module]],
    attentions: Sequence[type[nn.Module]],
) -> None:
    """Raise `UnsupportedBackbone` naming the first part that is of no class that is run."""
    found = type(model)
    if found is not whole:
        refuse(name, f"its class is {found.__name__}, expected timm's {whole.__name__}")
    for index, block in enumerate(model.blocks):
        check_kind("block", index, block, blocks, name)
        check_kind("attention", index, block.attn, attentions, name)
    check_ends(model, name)


def check_ends(model: Any, name: str) -> None:
    """Raise `UnsupportedBackbone` where stem, MLPs or pooling are none that timm's adapters run."""
    for index, block in enumerate(model.blocks):
        if type(block.mlp) not in (Mlp, GluMlp, SwiGLU):
            refuse(name, f"MLP {index} is a {type(block.mlp).__name__}")
    if type(model.patch_embed) is not PatchEmbed:
        refuse(
            name, f"its stem is a {type(model.patch_embed).__name__}, expected timm's PatchEmbed"
        )
    if getattr(model.patch_embed, "dynamic_img_pad", False):
        refuse(name, "it pads images of any size; create it with dynamic_img_pad=False")
    if type(getattr(model, "patch_drop", None)) not in (nn.Identity, NoneType):
        refuse(name, "patch dropout is active; create it with patch_drop_rate=0")
    if model.global_pool == "":
        refuse(name, "it gives its tokens as they are; create it with global_pool='avg'")
    if model.global_pool not in POOLINGS:
        refuse(name, f"pooling '{model.global_pool}' is unknown, allowed: {', '.join(POOLINGS)}")


def refuse(name: str, what: str) -> NoReturn:
    """Raise `UnsupportedBackbone` about a model, by its name."""
    raise UnsupportedBackbone(f"backbone '{name}' is not supported: {what}")
