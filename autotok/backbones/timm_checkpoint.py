"""A timm ViT out of a weight file, in the architecture the file shows."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any, cast

from torch import Tensor, nn

from autotok.errors import CheckpointError, failure

from .fitting import checked_fit, checked_names, load_fitting
from .size_tables import by_size, hold_size_tables, listed_sides
from .timm_layout import inferred_arguments, reads_both, sized_arguments
from .timm_vit import under_both
from .torchvision_shim import ensure_torchvision
from .unfilled import making_on

ensure_torchvision()

import timm  # noqa: E402
from timm.layers import SwiGLU, SwiGLUPacked  # noqa: E402
from timm.models import eva  # noqa: E402
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn  # noqa: E402

log = logging.getLogger(__name__)

GATED = {"blocks.0.mlp.w12.weight": SwiGLUPacked, "blocks.0.mlp.fc1_g.weight": SwiGLU}
"""Gated MLPs by a name that no other MLP has."""


def model_from_tensors(
    name: str, tensors: Mapping[str, Tensor], *, image_size: int | None = None, origin: str
) -> nn.Module:
    """timm's model of this name with these weights, in evaluation mode.

    Names of other code bases that timm knows (DINOv2, CLIP, OpenCLIP, BEiT-3; DINOv3, EVA, PE) are
    translated. Position tables for several image sizes (`size_tables`) are held beside its own.

    Raises:
        CheckpointError: a tensor is lacking, has no place, or does not fit.
    """
    arguments: dict[str, Any] = {}
    try:
        with making_on("meta"):
            template: Any = timm.create_model(name, pretrained=False)
        tensors = by_size(tensors, image_size=image_size, origin=origin, name=name)
        sides = listed_sides(tensors)
        given = _translated(tensors, template)
        given = _one_head(given)
        arguments = _arguments(tensors, given, template, image_size)
        both = reads_both(given, template)
        with making_on("meta"):
            shapes: Any = _made(name, arguments, both=both)
            hold_size_tables(shapes, sides)
        checked_names(shapes.state_dict(), given, origin=origin, name=name)
        with warnings.catch_warnings():  # of memory layouts, where timm resamples biases
            warnings.simplefilter("ignore", UserWarning)
            given = _filter(shapes)(given, shapes)
    except CheckpointError:
        raise
    except Exception as error:  # timm asserts and indexes; a file may be anything
        raise CheckpointError(
            f"checkpoint '{origin}' does not fit backbone '{name}' ({failure(error)[:120]})"
        ) from error
    fitting = checked_fit(shapes.state_dict(), given, origin=origin, name=name)
    if arguments:
        found = ", ".join(f"{key}={value}" for key, value in arguments.items())
        log.info("checkpoint '%s': built '%s' as the file shows it: %s", origin, name, found)
    model = _made(name, arguments, both=both)
    hold_size_tables(model, sides)
    return load_fitting(model, fitting)


def _made(name: str, arguments: Mapping[str, Any], *, both: bool) -> nn.Module:
    """timm's model, under a head for class token and mean of the patches if it is `both`."""
    model: nn.Module = timm.create_model(name, pretrained=False, **arguments)
    return under_both(model) if both else model


def _one_head(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, DINOv2's linear classifier under timm's name of a head."""
    words = {"linear_head.weight": "head.weight", "linear_head.bias": "head.bias"}
    return {words.get(key, key): value for key, value in tensors.items()}


def _translated(tensors: Mapping[str, Tensor], template: Any) -> dict[str, Tensor]:
    """The same weights under timm's names, positions and patches as they were.

    Raises:
        ValueError: patches of another size, or a layer that timm would leave out.
    """
    patches, wanted = tensors.get("patch_embed.proj.weight"), template.patch_embed.proj.weight
    if patches is not None and patches.dim() == 4 and patches.shape[2:] != wanted.shape[2:]:
        height, width = patches.shape[2:]
        raise ValueError(f"it has patches of {height}x{width}, not {wanted.shape[2]} pixels")
    unused = next((key for key in tensors if "pre_logits" in key), None)
    if unused is not None:
        raise ValueError(f"'{unused}' has no place in it")
    if not isinstance(template, (VisionTransformer, eva.Eva)):
        return dict(tensors)  # under timm's names from the first day
    options = {"adapt_layer_scale": True} if isinstance(template, VisionTransformer) else {}
    table, template.pos_embed = template.pos_embed, None  # then timm leaves the file's alone
    try:
        return dict(_filter(template)(dict(tensors), template, **options))
    finally:
        template.pos_embed = table


def _filter(model: Any) -> Callable[..., dict[str, Tensor]]:
    """What timm makes of a file's tensors for models of this class: names, sizes of tables."""
    if isinstance(model, VisionTransformer):
        return cast(Callable[..., dict[str, Tensor]], checkpoint_filter_fn)
    home = sys.modules[type(model).__module__]
    return getattr(home, "checkpoint_filter_fn", lambda tensors, model: tensors)


def _arguments(
    tensors: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    template: Any,
    image_size: int | None,
) -> dict[str, Any]:
    """Arguments in which the file, under its own names and timm's, differs from the named model."""
    if not isinstance(template, VisionTransformer):
        return sized_arguments(given, template, image_size=image_size)
    found = inferred_arguments(given, template, image_size=image_size)
    return found | _gated(tensors, given, template)


def _gated(
    tensors: Mapping[str, Tensor], given: Mapping[str, Tensor], template: Any
) -> dict[str, Any]:
    """Arguments for an MLP with a gate, where the file has one and the named model has none."""
    for key, layer in GATED.items():
        first = given.get(key.replace("w12", "fc1"))
        if key in tensors and first is not None and type(template.blocks[0].mlp) is timm.layers.Mlp:
            ratio = (first.shape[0] + 0.5) / template.embed_dim  # which rounds down to the width
            return {"mlp_layer": layer, "mlp_ratio": ratio, "act_layer": nn.SiLU}
    return {}
