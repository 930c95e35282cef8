"""What operators give on the meta device, remembered: blocks ask for the same again and again.

Many operators have no meta kernel but a reference in Python, which takes a few hundred times as
long as making an empty tensor of a known shape.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

MOST = 100_000
"""Results remembered; then it starts anew."""
Layout = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]
"""Shape, strides, kind of number."""


class MetaCache:
    """Runs operators on meta tensors; results of pure ones are made from memory the second time."""

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[Layout, ...]] = {}
        self._pure: dict[Any, bool] = {}

    def __call__(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What `func(*args, **kwargs)` gives."""
        if not self._is_pure(func):
            return func(*args, **kwargs)
        try:
            key = func, _said(args), _said(tuple(kwargs.items()))
            layouts = self._known.get(key)
        except _Elsewhere:
            return func(*args, **kwargs)
        if layouts is not None:
            made = [
                torch.empty_strided(shape, stride, dtype=dtype, device="meta")
                for shape, stride, dtype in layouts
            ]
            return made[0] if len(func._schema.returns) == 1 else tuple(made)
        result = func(*args, **kwargs)
        given = (result,) if isinstance(result, Tensor) else result
        if _shared(given, (args, kwargs)):  # such as `_unsafe_view`, whose schema hides it
            self._pure[func] = False
            return result
        if len(self._known) >= MOST:
            self._known.clear()
        self._known[key] = tuple((tuple(t.shape), t.stride(), t.dtype) for t in given)
        return result

    def _is_pure(self, func: Any) -> bool:
        """Whether it changes nothing and gives new tensors and nothing else."""
        if func not in self._pure:
            schema = func._schema
            self._pure[func] = not schema.is_mutable and all(
                str(value.type) == "Tensor" and value.alias_info is None for value in schema.returns
            )
        return self._pure[func]


class _Elsewhere(Exception):
    """An argument that is on another device than meta, or no plain value."""


def _shared(given: Sequence[Tensor], taken: object) -> bool:
    """Whether a result lies in the storage of an argument."""
    held = {
        leaf.untyped_storage()._cdata
        for leaf in pytree.tree_leaves(taken)
        if isinstance(leaf, Tensor)
    }
    return any(tensor.untyped_storage()._cdata in held for tensor in given)


def _said(value: Any) -> Hashable:
    """An argument as far as a result's layout depends on it."""
    if isinstance(value, Tensor):
        if not value.is_meta:
            raise _Elsewhere
        return tuple(value.shape), value.stride(), value.dtype
    if isinstance(value, (tuple, list)):
        return tuple(map(_said, value))
    if value is None or isinstance(
        value, (bool, int, float, str, torch.dtype, torch.device, torch.layout, torch.memory_format)
    ):
        return type(value), value
    raise _Elsewhere
