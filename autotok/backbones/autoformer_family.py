"""The AutoFormer family by name: published supernets, the built-in demo, and one's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import nn

from autotok.config import SubnetSpec
from autotok.errors import CheckpointError, ConfigError, UnknownName
from autotok.facts import BackboneFacts

from .autoformer import AutoFormer, SupernetSpec, subnet_facts
from .autoformer_spaces import (
    is_supernet_checkpoint,
    published_subnet,
    supernet_from_state_dict,
    supernet_spec,
)
from .base import Backbone
from .checkpoint import read_state_dict
from .demo import DEMO_SPEC, DEMO_SUBNET, load_demo_backbone, load_demo_supernet
from .family import Family, ModelRequest, family_of, no_download, register_family
from .fitting import checked_fit, depth_of, load_fitting
from .supernet import AutoFormerSupernet
from .supernet_file import Origin, read_origin, save_cut

DEMO = "autoformer_demo"
SIZES = {f"autoformer_{size}": size for size in ("tiny", "small", "base")}
SUPERNETS = (DEMO, *SIZES)
CUSTOM = "autoformer_custom"
"""A supernet of one's own: its shapes are in the file that `autotok supernet train` wrote."""


@register_family("autoformer")
class AutoFormerFamily(Family):
    """Stand-alone subnets of AutoFormer supernets."""

    about = "AutoFormer's subnets and supernets: relative positions on keys and values"
    ask = (
        "`autoformer_demo` (the default); `autoformer_tiny`, `_small`, `_base` with `--checkpoint`"
    )
    has_subnets = True

    def names(self) -> Sequence[str]:
        return SUPERNETS

    def matches(self, asked: str | nn.Module) -> bool:
        return asked in (*SUPERNETS, CUSTOM)

    def refuse(self, asked: str | nn.Module) -> None:
        if isinstance(asked, str) and asked.startswith("autoformer_"):
            raise UnknownName("backbone", asked, (*SUPERNETS, CUSTOM))

    def load(self, asked: ModelRequest) -> Backbone:
        name, checkpoint = asked.name, asked.checkpoint
        if name == DEMO and checkpoint is None:
            return load_demo_backbone(asked.subnet)
        spec, default = supernet_structure(name, checkpoint)
        if checkpoint is None:
            raise _no_download(name)
        chosen = asked.subnet or default
        tensors = read_state_dict(checkpoint)
        if is_supernet_checkpoint(tensors):
            net = supernet_from_state_dict(tensors, origin=str(checkpoint), spec=spec)
            return net.cut(chosen, name=name).eval()
        if chosen != default and read_origin(checkpoint) is not None:
            raise CheckpointError(
                f"checkpoint '{checkpoint}' holds another subnet of '{name}' than the one asked"
                " for; leave the subnet out to run the one it holds, or cut the other out of the"
                " supernet"
            )
        if chosen.depth > depth_of(tensors):
            raise CheckpointError(
                f"checkpoint '{checkpoint}' fits neither a supernet nor the chosen subnet of"
                f" '{name}': it has {depth_of(tensors)} blocks, not {chosen.depth}"
            )
        with torch.device("meta"):
            shapes = AutoFormer(spec, chosen, name=name).state_dict()
        fitting = checked_fit(shapes, tensors, origin=str(checkpoint), name=name)
        return cast(AutoFormer, load_fitting(AutoFormer(spec, chosen, name=name), fitting))

    def structure(self, asked: ModelRequest, *, device: str = "meta") -> Backbone:
        spec, default = supernet_structure(asked.name)
        with torch.device(device):
            return AutoFormer(spec, asked.subnet or default, name=asked.name).eval()

    def facts(self, asked: ModelRequest) -> BackboneFacts:
        spec, default = supernet_structure(asked.name)
        return subnet_facts(spec, asked.subnet or default, name=asked.name)

    def save(self, backbone: Backbone, path: Path, *, name: str) -> None:
        model = backbone.alone()
        assert isinstance(model, AutoFormer)
        save_cut(model, path, name=name)


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
    if name == DEMO:
        return DEMO_SPEC, DEMO_SUBNET
    return supernet_spec(SIZES[name]), published_subnet(SIZES[name])


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
        if name == DEMO:
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
    if not isinstance(family_of(name), AutoFormerFamily):
        raise ConfigError(
            f"backbone '{name}' is no supernet; supernets: {', '.join((*SUPERNETS, CUSTOM))}"
        )


def _check_origin(origin: Origin, name: str, checkpoint: Path | None) -> None:
    if origin.backbone != name:
        raise CheckpointError(
            f"checkpoint '{checkpoint}' was written for backbone '{origin.backbone}', not"
            f" '{name}'; ask for --backbone {origin.backbone}"
        )


def _no_download(name: str) -> CheckpointError:
    return no_download(name, "supernet checkpoint (AutoFormer model zoo)")
