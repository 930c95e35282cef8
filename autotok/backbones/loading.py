"""Names and models to backbones: the registry's families do the work (see `family`)."""

from __future__ import annotations

import fnmatch
from pathlib import Path

from torch import nn

from autotok.config import Subnet
from autotok.errors import CheckpointError, ConfigError, UnsupportedBackbone
from autotok.facts import BackboneFacts
from autotok.pruned_spec import PrunedSpec

from .base import Backbone
from .family import FAMILIES, Family, ModelRequest, family_of


def known_backbones(pattern: str = "*") -> list[str]:
    """Names `load_backbone` takes: the built-in ones, then timm's plain ViTs, then others'."""
    names = (name for family in FAMILIES for name in family.names())
    return [name for name in names if fnmatch.fnmatch(name, pattern)]


def as_backbone(model: nn.Module, image_size: int | None = None) -> Backbone:
    """The model itself if it is a `Backbone`, else the adapter of its class around it.

    It runs on square images of `image_size` pixels; None is the size that the model is used with.

    Raises:
        UnsupportedBackbone: no adapter runs this model.
        ConfigError: it cannot run on images of that size.
    """
    if isinstance(model, Backbone):
        return model if image_size is None else model.at_size(image_size)
    if not isinstance(model, nn.Module):
        raise UnsupportedBackbone(f"a backbone must be a torch module, got {type(model).__name__}")
    family = family_of(model)
    return family.wrap(model) if image_size is None else family.wrap_at(model, image_size)


def check_name(name: str) -> None:
    """Raise `UnknownName` or `UnsupportedBackbone` unless `load_backbone` knows the name."""
    family_of(name)


def check_file(checkpoint: str | Path | None) -> None:
    """Raise `CheckpointError` where a weight file is named that is not there."""
    if checkpoint is not None and not Path(checkpoint).is_file():
        raise CheckpointError(
            f"checkpoint '{checkpoint}' does not exist; give the path of a weight file"
        )


def load_backbone(
    name: str,
    *,
    checkpoint: str | Path | None = None,
    image_size: int | None = None,
    subnet: Subnet | None = None,
) -> Backbone:
    """A backbone by name, with real weights, in evaluation mode.

    Args:
        name: 'autoformer_demo', 'autoformer_tiny|small|base', 'lvvit_s|m', 'tiny', any timm ViT, or
            what another family has registered.
        checkpoint: Weight file to read instead of downloading.
        image_size: Input side in pixels; position embeddings are resampled. timm models and
            LV-ViT only.
        subnet: Subnet to run of an AutoFormer supernet; the published one by default. What pruning
            leaves of another ViT changes nothing here: `compress` cuts it out of the whole.

    Raises:
        UnknownName, UnsupportedBackbone, CheckpointError, ConfigError
    """
    family = family_of(name)
    check_file(checkpoint)
    weights = None if checkpoint is None else Path(checkpoint)
    asked = _request(family, name, weights, image_size, subnet)
    backbone = _of_size(family.load(asked), image_size)
    backbone.from_file = weights is not None
    return backbone


def load_structure(
    name: str,
    *,
    image_size: int | None = None,
    subnet: Subnet | None = None,
    device: str = "meta",
) -> Backbone:
    """A backbone on the meta device: its shapes without weights, for counting and predicting.

    Needs no download and no checkpoint; it cannot be run on images. On another `device` it runs
    with random weights, for timing and nothing else.
    """
    family = family_of(name)
    asked = _request(family, name, None, image_size, subnet)
    return _of_size(family.structure(asked, device=device), image_size)


def backbone_facts(name: str) -> BackboneFacts:
    """What is known about a named backbone without its weights."""
    return family_of(name).facts(ModelRequest(name))


def save_backbone(backbone: Backbone, path: Path, *, name: str) -> None:
    """Write weights that `load_backbone(name, checkpoint=path)` reads, as safetensors."""
    known = backbone.facts.family in FAMILIES.names()
    family = FAMILIES.get(backbone.facts.family) if known else Family()
    family.save(backbone, path, name=name)


def _request(
    family: Family,
    name: str,
    checkpoint: Path | None,
    image_size: int | None,
    subnet: Subnet | None,
) -> ModelRequest:
    if isinstance(subnet, PrunedSpec):
        subnet = None
    if subnet is not None and not family.has_subnets:
        raise ConfigError(f"backbone '{name}' has no subnets; only AutoFormer supernets do")
    return ModelRequest(name, checkpoint, image_size, subnet)


def _of_size(backbone: Backbone, image_size: int | None) -> Backbone:
    """The backbone, which takes images of the size asked for."""
    side = backbone.facts.image_shape[1]
    if image_size not in (None, side):
        raise ConfigError(
            f"backbone '{backbone.facts.name}' takes images of {side} pixels, not {image_size};"
            " leave the image size out"
        )
    return backbone
