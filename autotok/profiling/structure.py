"""A model's structure on the meta device: shapes without numbers, memory or work."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

__all__ = ["meta_copy"]

M = TypeVar("M", bound=nn.Module)


def meta_copy(model: M, *, dtype: torch.dtype | None = None) -> M:
    """A copy of `model` whose every tensor is on the meta device; the original is untouched.

    No weight is copied: each tensor is stood in for before the copy reaches it, so this costs
    milliseconds whatever the model's size. Floating-point tensors take `dtype` where given. The
    copy is in evaluation mode and tracks no gradients.
    """
    memo: dict[int, object] = {}
    for module in model.modules():
        tensors = [*module._parameters.values(), *module._buffers.values()]
        tensors += [value for value in vars(module).values() if isinstance(value, Tensor)]
        for tensor in tensors:
            if tensor is not None:
                memo[id(tensor)] = _stand_in(tensor, dtype)
    twin = copy.deepcopy(model, memo).eval()
    aside: list[Any] = [m for m in twin.modules() if hasattr(m, "to_structure")]
    for module in aside:  # these keep a network outside their parameters
        module.to_structure(dtype)
    return twin


def _stand_in(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    kind = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
    empty = torch.empty_like(tensor, device="meta", dtype=kind)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(empty, requires_grad=False)
    return empty
