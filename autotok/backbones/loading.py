"""Names and models to backbones."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import nn

from autotok.config import SubnetSpec
from autotok.errors import CheckpointError, ConfigError, UnknownName, UnsupportedBackbone

from .autoformer import AutoFormer, SupernetSpec
from .autoformer_spaces import (
    is_supernet_checkpoint,
    published_subnet,
    supernet_from_state_dict,
    supernet_spec,
)
from .base import Backbone
from .checkpoint import read_state_dict
from .fitting import checked_fit, depth_of, load_fitting
from .lvvit import LVVIT, LVViT, lvvit_from_state_dict, sized, spec_for
from .supernet import AutoFormerSupernet
from .supernet_file import Origin, read_origin

__all__ = [
    "CUSTOM",
    "SUPERNETS",
    "as_backbone",
    "check_file",
    "check_name",
    "known_backbones",
    "load_backbone",
    "load_structure",
    "load_supernet",
    "supernet_structure",
]

AUTOFORMER_SIZES = {f"autoformer_{size}": size for size in ("tiny", "small", "base")}
SUPERNETS = ("autoformer_demo", *AUTOFORMER_SIZES)
CUSTOM = "autoformer_custom"
"""A supernet of one's own: its shapes are in the file that `autotok supernet train` wrote."""
BUILT_IN = ("autoformer_demo", "tiny", *AUTOFORMER_SIZES, *LVVIT)


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
    if name in BUILT_IN or name == CUSTOM:
        return
    if name.startswith("autoformer_"):
        raise UnknownName("backbone", name, (*BUILT_IN, CUSTOM))
    from .timm_vit import check_timm_name

    check_timm_name(name, BUILT_IN)


def check_file(checkpoint: Path | None) -> None:
    """Raise `CheckpointError` where a weight file is named that is not there."""
    if checkpoint is not None and not checkpoint.is_file():
        raise CheckpointError(
            f"checkpoint '{checkpoint}' does not exist; give the path of a weight file"
        )


def load_backbone(
    name: str,
    *,
    checkpoint: Path | None = None,
    image_size: int | None = None,
    subnet: SubnetSpec | None = None,
) -> Backbone:
    """A backbone by name, with real weights, in evaluation mode.

    Args:
        name: 'autoformer_demo', 'autoformer_tiny|small|base', 'lvvit_s|m', 'tiny', or any timm
            ViT.
        checkpoint: Weight file to read instead of downloading.
        image_size: Input side in pixels; position embeddings are resampled. timm models and
            LV-ViT only.
        subnet: Subnet to run of an AutoFormer supernet; the published one by default.

    Raises:
        UnknownName, UnsupportedBackbone, CheckpointError, ConfigError
    """
    check_name(name)
    check_file(checkpoint)
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
    if name in LVVIT:
        return _load_lvvit(name, checkpoint, image_size)
    from .timm_vit import create_timm

    if checkpoint is None:
        return create_timm(name, image_size=image_size)
    tensors = read_state_dict(checkpoint)
    return create_timm(name, state_dict=tensors, image_size=image_size, origin=str(checkpoint))


def load_structure(
    name: str,
    *,
    image_size: int | None = None,
    subnet: SubnetSpec | None = None,
    device: str = "meta",
) -> Backbone:
    """A backbone on the meta device: its shapes without weights, for counting and predicting.

    Needs no download and no checkpoint; it cannot be run on images. On another `device` it runs
    with random weights, for timing and nothing else.
    """
    check_name(name)
    if name == "tiny":
        from .tiny import tiny_backbone

        return tiny_backbone()
    if name in LVVIT:
        with torch.device(device):
            return LVViT(sized(LVVIT[name], image_size), name=name).eval()
    if not name.startswith("autoformer_"):
        from .timm_vit import timm_structure

        return timm_structure(name, image_size=image_size, device=device)
    spec, default = supernet_structure(name)
    with torch.device(device):
        return AutoFormer(spec, subnet or default, name=name).eval()


def supernet_structure(
    name: str, checkpoint: Path | None = None
) -> tuple[SupernetSpec, SubnetSpec]:
    """Shapes and choices of a supernet, and its default subnet; no weights are read.

    Args:
        name: 'autoformer_demo', 'autoformer_tiny|small|base', or 'autoformer_custom', whose shapes
            are in its checkpoint.
        checkpoint: Weight file; what is written in it about the supernet goes before the name.

    Raises:
        ConfigError, UnknownName, CheckpointError
    """
    _check_supernet_name(name)
    origin = None if checkpoint is None else read_origin(checkpoint)
    if origin is not None:
        _check_origin(origin, name, checkpoint)
        return origin.spec, origin.subnet
    if name == CUSTOM:
        raise CheckpointError(
            f"the shapes of '{CUSTOM}' are in its weight file; give a .safetensors that `autotok"
            " supernet train` or `cut` wrote with --checkpoint"
        )
    if name == "autoformer_demo":
        from .demo import DEMO_SPEC, DEMO_SUBNET

        return DEMO_SPEC, DEMO_SUBNET
    size = AUTOFORMER_SIZES[name]
    return supernet_spec(size), published_subnet(size)


def load_supernet(name: str, checkpoint: Path | None = None) -> AutoFormerSupernet:
    """A supernet's shared weights by name, in float32 and evaluation mode.

    Run a subnet of it as `SupernetView(supernet, subnet, name=name)`, which copies nothing.

    Args:
        name: As for `supernet_structure`; only 'autoformer_demo' has weights of its own.
        checkpoint: Weight file under the official key names, safetensors or `.pth`.

    Raises:
        ConfigError, UnknownName, CheckpointError
    """
    _check_supernet_name(name)
    if checkpoint is None:
        if name == "autoformer_demo":
            from .demo import load_demo_supernet

            return load_demo_supernet()
        supernet_structure(name)
        raise _no_download(name)
    spec, _ = supernet_structure(name, checkpoint)
    tensors = read_state_dict(checkpoint)
    if not is_supernet_checkpoint(tensors) and read_origin(checkpoint) is not None:
        raise CheckpointError(
            f"checkpoint '{checkpoint}' holds one subnet cut out of '{name}', not the supernet;"
            " give the supernet's own weights"
        )
    return supernet_from_state_dict(tensors, origin=str(checkpoint), spec=spec)


def _check_supernet_name(name: str) -> None:
    check_name(name)
    if not name.startswith("autoformer_"):
        raise ConfigError(
            f"backbone '{name}' is no supernet; supernets: {', '.join((*SUPERNETS, CUSTOM))}"
        )


def _check_origin(origin: Origin, name: str, checkpoint: Path | None) -> None:
    if origin.backbone != name:
        raise CheckpointError(
            f"checkpoint '{checkpoint}' was written for backbone '{origin.backbone}', not"
            f" '{name}'; ask for --backbone {origin.backbone}"
        )


def _no_download(
    name: str, where: str = "supernet checkpoint (AutoFormer model zoo)"
) -> CheckpointError:
    return CheckpointError(
        f"weights of '{name}' cannot be downloaded by autotok; get the official {where} and give it"
        " with --checkpoint"
    )


def _load_lvvit(name: str, checkpoint: Path | None, image_size: int | None) -> Backbone:
    sized(LVVIT[name], image_size)  # a size that cannot be is told before any file is read
    if checkpoint is None:
        raise _no_download(name, "checkpoint (TokenLabeling release)")
    tensors = read_state_dict(checkpoint)
    spec = spec_for(tensors, LVVIT[name], image_size)
    return lvvit_from_state_dict(tensors, spec, name=name, origin=str(checkpoint))


def _load_autoformer(name: str, checkpoint: Path | None, subnet: SubnetSpec | None) -> Backbone:
    spec, default = supernet_structure(name, checkpoint)
    if checkpoint is None:
        raise _no_download(name)
    chosen = subnet or default
    tensors = read_state_dict(checkpoint)
    if is_supernet_checkpoint(tensors):
        net = supernet_from_state_dict(tensors, origin=str(checkpoint), spec=spec)
        return net.cut(chosen, name=name).eval()
    if chosen != default and read_origin(checkpoint) is not None:
        raise CheckpointError(
            f"checkpoint '{checkpoint}' holds another subnet of '{name}' than the one asked for;"
            " leave the subnet out to run the one it holds, or cut the other out of the supernet"
        )
    if chosen.depth > depth_of(tensors):
        raise CheckpointError(
            f"checkpoint '{checkpoint}' fits neither a supernet nor the chosen subnet of '{name}':"
            f" it has {depth_of(tensors)} blocks, not {chosen.depth}"
        )
    with torch.device("meta"):
        shapes = AutoFormer(spec, chosen, name=name).state_dict()
    fitting = checked_fit(shapes, tensors, origin=str(checkpoint), name=name)
    return cast(AutoFormer, load_fitting(AutoFormer(spec, chosen, name=name), fitting))
