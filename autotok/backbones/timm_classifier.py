"""Any classifier of timm as it is, CNNs included: nothing to compress, somebody to learn from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from autotok.errors import CheckpointError, UnsupportedBackbone, failure, misfit, nearest

from .checkpoint import read_state_dict
from .family import family_of
from .hub import hub_or_cache
from .timm_heads import head_classes
from .timm_names import bare_name, is_timm_name
from .torchvision_shim import ensure_torchvision
from .unfilled import making_on

ensure_torchvision()

import timm  # noqa: E402
from timm.data import resolve_model_data_config  # noqa: E402

USED = ("mean", "std", "interpolation", "crop_pct")
"""Of timm's data configuration, beside the image's shape."""


def is_other_timm(name: str) -> bool:
    """Whether timm knows a model of this name, and no adapter of ours does."""
    if not is_timm_name(name):
        return False
    try:
        family_of(name)
    except UnsupportedBackbone:
        return True
    return False


def nearest_timm(name: str) -> str:
    """` did you mean 'x'?` for the closest of timm's names, or an empty string."""
    return nearest(name, timm.list_models())


def timm_classifier(
    name: str, *, checkpoint: Path | None = None
) -> tuple[nn.Module, int, tuple[int, int, int], dict[str, Any]]:
    """(model, classes, image shape (C, H, W), how its images are prepared), of timm by name.

    With pretrained weights, or those of a file, whose head says how many classes there are.

    Raises:
        CheckpointError: the weights cannot be had, or do not fit.
    """
    model = _pretrained(name) if checkpoint is None else _from_file(name, checkpoint)
    how = resolve_model_data_config(model)
    prepared = {key: how[key] for key in USED}
    return model.eval(), head_classes(model), how["input_size"], prepared


def _pretrained(name: str) -> Any:
    try:
        with hub_or_cache():
            return timm.create_model(name, pretrained=True)
    except Exception as error:  # the hub raises many types: offline, not found, no such tag
        raise CheckpointError(
            f"pretrained weights of teacher '{name}' could not be fetched"
            f" ({failure(error)[:120]});"
            " give a local file with --teacher-checkpoint"
        ) from error


def _from_file(name: str, checkpoint: Path) -> Any:
    tensors = read_state_dict(checkpoint)
    tagged = bare_name(name)
    with making_on("meta"):
        template: Any = timm.create_model(tagged, pretrained=False)
    head = template.default_cfg["classifier"]
    weight = tensors.get(f"{head if isinstance(head, str) else head[0]}.weight")
    if weight is None:
        raise CheckpointError(
            f"weights '{checkpoint}' hold no classifier of '{name}' ('{head}.weight'); give the"
            " file of a whole model"
        )
    model: Any = timm.create_model(tagged, pretrained=False, num_classes=weight.shape[0])
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(
            f"weights '{checkpoint}' do not fit teacher '{name}' ({misfit(error)}); give the"
            " model's own file"
        ) from error
    return model
