"""`making_on`: models made where tensors have no numbers, without the work of filling those in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_FILLING = frozenset(
    {Tensor.uniform_, Tensor.normal_, Tensor.erfinv_, Tensor.mul_, Tensor.add_, Tensor.clamp_}
)
"""What random initialisations are made of; none changes a shape. `clamp_` has no meta kernel but a
reference in Python, which takes longer than all else of making such a model."""


class _Unfilled(TorchFunctionMode):
    """On the meta device, what would only fill a tensor gives it as it is."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _FILLING and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


@contextmanager
def making_on(device: str) -> Iterator[None]:
    """New tensors are made on `device`; on 'meta', random initialisation is left out."""
    with torch.device(device), _Unfilled():
        yield
