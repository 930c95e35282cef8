"""Names and models to backbones."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from autotok.config import SubnetSpec
from autotok.errors import CheckpointError, ConfigError, UnknownName, UnsupportedBackbone

from .autoformer import AutoFormer
from .autoformer_spaces import (
    is_supernet_checkpoint,
    published_subnet,
    supernet_from_state_dict,
    supernet_spec,
)
from .base import Backbone
from .checkpoint import read_state_dict

__all__ = ["as_backbone", "check_name", "known_backbones", "load_backbone", "load_structure"]

AUTOFORMER_SIZES = {f"autoformer_{size}": size for size in ("tiny", "small", "base")}
BUILT_IN = ("autoformer_demo", "tiny", *AUTOFORMER_SIZES)


def known_backbones(pattern: str = "*") -> list[str]:
    """Names `load_backbone` takes: the built-in ones, then timm's plain ViTs."""
    import fnmatch

    from .timm_vit import supported_timm_names

    names = [*BUILT_IN, *supported_timm_names()]
    return [name for name in names if fnmatch.fnmatch(name, pattern)]


def as_backbone(model: nn.Module) -> Backbone:
    """The model itself if it is a `Backbone`, else the adapter of its class around it.

    Raises:
        UnsupportedBackbone: no adapter runs this model.
    """
    if isinstance(model, Backbone):
        return model
    from .timm_vit import TimmViT

    if not isinstance(model, nn.Module):
        raise UnsupportedBackbone(f"a backbone must be a torch module, got {type(model).__name__}")
    return TimmViT(model)


def check_name(name: str) -> None:
    """Raise `UnknownName` or `UnsupportedBackbone` unless `load_backbone` knows the name."""
    if name in BUILT_IN:
        return
    if name.startswith("autoformer_"):
        raise UnknownName("backbone", name, BUILT_IN)
    from .timm_vit import check_timm_name

    check_timm_name(name, BUILT_IN)


def load_backbone(
    name: str,
    *,
    checkpoint: Path | None = None,
    image_size: int | None = None,
    subnet: SubnetSpec | None = None,
) -> Backbone:
    """A backbone by name, with real weights, in evaluation mode.

    Args:
        name: 'autoformer_demo', 'autoformer_tiny|small|base', 'tiny', or any timm ViT.
        checkpoint: Weight file to read instead of downloading.
        image_size: Input side in pixels; position embeddings are resampled. timm models only.
        subnet: Subnet to run of an AutoFormer supernet; the published one by default.

    Raises:
        UnknownName, UnsupportedBackbone, CheckpointError, ConfigError
    """
    check_name(name)
    if name == "autoformer_demo" and checkpoint is None:
        from .demo import load_demo_backbone

        return load_demo_backbone(subnet)
    if name.startswith("autoformer_"):
        return _load_autoformer(name, checkpoint, subnet)
    if subnet is not None:
        raise ConfigError(f"backbone '{name}' has no subnets; only AutoFormer supernets do")
    if name == "tiny":
        from .tiny import tiny_backbone

        return tiny_backbone()
    from .timm_vit import create_timm

    if checkpoint is None:
        return create_timm(name, image_size=image_size)
    tensors = read_state_dict(checkpoint)
    return create_timm(name, state_dict=tensors, image_size=image_size, origin=str(checkpoint))


def load_structure(
    name: str, *, image_size: int | None = None, subnet: SubnetSpec | None = None
) -> Backbone:
    """A backbone on the meta device: its shapes without weights, for counting and predicting.

    Needs no download and no checkpoint; it cannot be run on images.
    """
    check_name(name)
    if name == "tiny":
        from .tiny import tiny_backbone

        return tiny_backbone()
    if name == "autoformer_demo":
        from .demo import DEMO_SPEC, DEMO_SUBNET

        spec, chosen = DEMO_SPEC, subnet or DEMO_SUBNET
    elif name in AUTOFORMER_SIZES:
        size = AUTOFORMER_SIZES[name]
        spec, chosen = supernet_spec(size), subnet or published_subnet(size)
    else:
        from .timm_vit import timm_structure

        return timm_structure(name, image_size=image_size)
    with torch.device("meta"):
        return AutoFormer(spec, chosen, name=name).eval()


def _load_autoformer(name: str, checkpoint: Path | None, subnet: SubnetSpec | None) -> Backbone:
    if checkpoint is None:
        raise CheckpointError(
            f"weights of '{name}' cannot be downloaded by autotok; get the official supernet"
            " checkpoint"
            " (AutoFormer model zoo) and give it with --checkpoint"
        )
    tensors = read_state_dict(checkpoint)
    if name == "autoformer_demo":
        from .demo import DEMO_SPEC, DEMO_SUBNET

        spec, chosen = DEMO_SPEC, subnet or DEMO_SUBNET
    else:
        size = AUTOFORMER_SIZES[name]
        spec, chosen = supernet_spec(size), subnet or published_subnet(size)
    if is_supernet_checkpoint(tensors):
        net = supernet_from_state_dict(tensors, origin=str(checkpoint), spec=spec)
        return net.cut(chosen, name=name).eval()
    model = AutoFormer(spec, chosen, name=name)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()[:160]
        raise CheckpointError(
            f"checkpoint '{checkpoint}' fits neither a supernet nor the chosen subnet of"
            f" '{name}' ({reason})"
        ) from error
    return model.eval()
