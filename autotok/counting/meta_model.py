"""A model's structure on the meta device: shapes without numbers, memory or work."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def meta_copy(model: M, *, dtype: torch.dtype | None = None) -> M:
    """A copy of `model` whose every tensor is on the meta device; the original is untouched.

    No weight is copied: each tensor is stood in for before the copy reaches it, so this costs
    milliseconds whatever the model's size. Floating-point tensors take `dtype` where given. The
    copy is in evaluation mode. Parts that are structures already, such as
    the backbone that several compressed models hold, are not copied but shared.
    """
    shared = [child for child in model.children() if _is_structure(child, dtype)]
    memo: dict[int, object] = {id(child): child for child in shared}
    known = {id(part) for child in shared for part in child.modules()}
    for module in model.modules():
        if id(module) in known:
            continue
        for value in vars(module).values():
            if type(value) in (dict, OrderedDict) and not value:  # most of what a module holds
                memo[id(value)] = type(value)()
        for tensor in _tensors(module):
            memo[id(tensor)] = _stand_in(tensor, dtype)
    twin = copy.deepcopy(model, memo).eval()
    aside: list[Any] = [m for m in twin.modules() if hasattr(m, "to_structure")]
    for module in aside:  # these keep a network outside their parameters
        module.to_structure(dtype)
    return twin


def _is_structure(module: nn.Module, dtype: torch.dtype | None) -> bool:
    """Whether a copy of a module would be the same again."""
    for part in module.modules():
        if part.training or hasattr(part, "to_structure"):
            return False
        for tensor in _tensors(part):
            same = dtype is None or tensor.dtype == dtype or not tensor.is_floating_point()
            if not (tensor.is_meta and same):
                return False
    return True


def _tensors(module: nn.Module) -> list[Tensor]:
    """A module's own, those that are neither parameters nor buffers included."""
    held = [*module._parameters.values(), *module._buffers.values(), *vars(module).values()]
    return [value for value in held if isinstance(value, Tensor)]


def _stand_in(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    kind = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
    empty = torch.empty_like(tensor, device="meta", dtype=kind)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(empty, requires_grad=False)
    return empty
