"""Holding a checkpoint's tensors against a model: what is lacking, what has no place, what differs.

Nothing is dropped in silence. A tensor without a place is an error, unless its name says that the
model's outputs do not hang on it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from autotok.errors import CheckpointError

from .weight_file import shown

log = logging.getLogger(__name__)

HARMLESS = re.compile(
    r"mask_token|decoder_?\w*(\..*)?|n_averaged|logit_scale|.*relative_position_index"
    r"|.*num_batches_tracked|.*total_(ops|params)"
    # heads of self-supervision, which no classifier shares
    r"|((dino|ibot|projection|projector|predictor)_?(head)?\..*)|head\.(mlp|last_layer)\..*"
    # parts of token-compression methods, which `weights` reads
    r"|(score_predictor|selectors|approximators|cropr|cluster_layers|reuse_block)\..*|keep_threshold"
    r"|blocks\.\d+\.((merge|prune)_threshold|(merge|prune)_ddp\..*|attn\.metric\..*)"
)
"""Names of what may stand in a file beside a backbone without changing the backbone's outputs."""


def checked_names(
    own: Mapping[str, Tensor], given: Mapping[str, Tensor], *, origin: str, name: str
) -> list[str]:
    """Names that the file has beside the model's and that its outputs do not hang on.

    Raises:
        CheckpointError: a tensor is lacking, or has no place.
    """
    needed = [key for key in own if not key.endswith("num_batches_tracked")]
    missing = [key for key in needed if key not in given]
    beside = [key for key in given if key not in own]
    extra = [key for key in beside if not HARMLESS.fullmatch(key)]
    if missing:
        instead = f"; it has {shown(extra[0])} instead" if extra else ""
        raise _misfit(origin, name, f"{shown(missing[0])} is missing{_more(missing)}{instead}")
    if extra:
        what = f"{shown(extra[0])} has no place in it{_more(extra)}, so its outputs would be others"
        raise _misfit(origin, name, what + "; name the backbone these weights were trained as")
    return beside


def checked_fit(
    own: Mapping[str, Tensor], given: Mapping[str, Tensor], *, origin: str, name: str
) -> dict[str, Tensor]:
    """Those of the given tensors that the model has a place for, one for each it needs.

    Args:
        own: The model's state; only shapes and types are looked at, so it may be on meta.
        given: What the file has, under the model's names.
        origin: The file, for messages.
        name: The backbone, for messages.

    Raises:
        CheckpointError: a tensor is lacking, has no place, another shape, or no usable values.
    """
    beside = checked_names(own, given, origin=origin, name=name)
    fitting = {key: given[key] for key in own if key in given}
    for key, value in fitting.items():
        fault = _fault(value, own[key])
        if fault:
            raise _misfit(origin, name, f"{shown(key)} {fault}")
    if beside:
        log.info("checkpoint '%s': passing over %s%s", origin, shown(beside[0]), _more(beside))
    return fitting


def depth_of(tensors: Mapping[str, Tensor]) -> int:
    """How many blocks the names speak of, never more than there are tensors."""
    numbers = {int(n) for n in (key.split(".")[1] for key in tensors if key.startswith("blocks."))
               if n.isdecimal() and len(n) < 6}  # fmt: skip
    return min(len(tensors), max(numbers, default=-1) + 1)


def load_fitting(model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The model in evaluation mode, now with tensors that `checked_fit` gave back."""
    model.load_state_dict(tensors, strict=False)
    return model.eval()


def _more(keys: list[str]) -> str:
    return f" and {len(keys) - 1} more" if len(keys) > 1 else ""


def _misfit(origin: str, name: str, what: str) -> CheckpointError:
    return CheckpointError(f"checkpoint '{origin}' does not fit backbone '{name}': {what}")


def _fault(value: Tensor, own: Tensor) -> str | None:
    """Why a tensor cannot stand in the place of another; None where it can."""
    if value.shape != own.shape:
        return f"has shape {tuple(value.shape)}, expected {tuple(own.shape)}"
    if own.is_floating_point() and not value.is_floating_point():
        return f"holds {str(value.dtype).removeprefix('torch.')} values, expected floating point"
    if value.is_floating_point() and not bool(torch.isfinite(value.float()).all()):
        return "holds values that are not finite; fetch or save the file again"
    return None
