"""timm's plain ViTs by name: which there are, and how they are loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autotok.errors import CheckpointError, UnsupportedBackbone

from .checkpoint import read_state_dict
from .family import Family, ModelRequest, register_family
from .hub import hub_or_cache
from .timm_checkpoint import model_from_tensors
from .timm_vit import TimmViT, check_timm_model, model_name, refuse_module
from .torchvision_shim import ensure_torchvision

ensure_torchvision()

import timm  # noqa: E402
from timm.models.deit import VisionTransformerDistilled  # noqa: E402
from timm.models.vision_transformer import VisionTransformer  # noqa: E402

MODULES = ("vision_transformer", "deit")
"""Of timm, whose models are of the classes that the adapter runs."""


@register_family("timm_vit")
class TimmViTFamily(Family):
    """timm's plain ViTs, by name (pretrained tags allowed) and as model objects."""

    wraps = "timm's VisionTransformer"

    def names(self) -> Sequence[str]:
        return supported_timm_names()

    def matches(self, asked: str | nn.Module) -> bool:
        if isinstance(asked, str):
            return is_timm_name(asked) and _module_of(asked) in (*MODULES, None)
        return type(asked) in (VisionTransformer, VisionTransformerDistilled)

    def refuse(self, asked: str | nn.Module) -> None:
        if not isinstance(asked, str):
            refuse_module(model_name(asked), type(asked).__module__.rsplit(".", 1)[-1])
        elif is_timm_name(asked):
            module = _module_of(asked) or ""
            refuse_module(asked, module)
            raise UnsupportedBackbone(
                f"backbone '{asked}' is not supported: it is no plain Vision Transformer (timm's"
                f" module {module}); choose one that `autotok backbones` lists"
            )

    def load(self, asked: ModelRequest) -> TimmViT:
        if asked.checkpoint is None:
            return create_timm(asked.name, image_size=asked.image_size)
        tensors, origin = read_state_dict(asked.checkpoint), str(asked.checkpoint)
        return create_timm(
            asked.name, state_dict=tensors, image_size=asked.image_size, origin=origin
        )

    def structure(self, asked: ModelRequest, *, device: str = "meta") -> TimmViT:
        size: dict[str, Any] = {} if asked.image_size is None else {"img_size": asked.image_size}
        with torch.device(device):
            model = timm.create_model(asked.name.split(".")[0], pretrained=False, **size)
            return TimmViT(model.eval(), name=asked.name)

    def wrap(self, model: nn.Module) -> TimmViT:
        return TimmViT(model)


def is_timm_name(name: str) -> bool:
    """Whether timm knows a model of this name (a pretrained tag after a dot is allowed)."""
    return bool(timm.is_model(_base_name(name)))


def _base_name(name: str) -> str:
    return name.split(".")[0].removeprefix("timm/")


def _module_of(name: str) -> str | None:
    """The module in which timm defines a model; None for one that somebody else registered."""
    package, _, module = timm.model_entrypoint(_base_name(name)).__module__.rpartition(".")
    return module if package == "timm.models" else None


def supported_timm_names() -> list[str]:
    """Names of timm models whose module an adapter exists for, without tags."""
    return sorted(name for module in MODULES for name in timm.list_models(module=module))


def create_timm(
    name: str,
    *,
    state_dict: Mapping[str, Tensor] | None = None,
    image_size: int | None = None,
    origin: str = "checkpoint",
) -> TimmViT:
    """A wrapped timm model with pretrained weights, or with the given ones.

    Given weights decide the architecture as far as it shows in them, the image size too unless one
    is asked for; position embeddings are then resampled as timm does. Weights that cannot be had or
    do not fit raise `CheckpointError`; a model is never left randomly initialised.
    """
    if state_dict is not None:
        model = model_from_tensors(name, state_dict, image_size=image_size, origin=origin)
        return TimmViT(model, name=name)
    kwargs: dict[str, Any] = {} if image_size is None else {"img_size": image_size}
    with torch.device("meta"):  # what cannot be run is told before anything is fetched
        check_timm_model(timm.create_model(name.split(".")[0], pretrained=False), name)
    try:
        with hub_or_cache():
            model = timm.create_model(name, pretrained=True, **kwargs)
    except Exception as error:  # the hub raises many types: offline, not found, no such tag
        raise CheckpointError(
            f"pretrained weights of '{name}' could not be fetched ({_first_line(error)});"
            " give a local file with --checkpoint"
        ) from error
    return TimmViT(model.eval(), name=name)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:100]}" if lines else type(error).__name__
