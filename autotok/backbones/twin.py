"""`twin_of`: another backbone on the same weights, but for a few of its own."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from .base import Backbone

B = TypeVar("B", bound=Backbone)


def hooks_of(module: nn.Module) -> list[OrderedDict[Any, Any]]:
    """Where every part of a module holds its hooks."""
    held = (item for part in module.modules() for item in vars(part).items())
    return [v for name, v in held if name.endswith("_hooks") and isinstance(v, OrderedDict)]


def twin_of(backbone: B, weight: Callable[[nn.Parameter], nn.Parameter]) -> B:
    """A backbone like this one that holds `weight(p)` for every parameter p; buffers and hooks are
    shared, and the backbone itself is not changed."""
    memo: dict[int, Any] = {id(kept): kept for kept in (*backbone.buffers(), *hooks_of(backbone))}
    memo |= {id(parameter): weight(parameter) for parameter in backbone.parameters()}
    return copy.deepcopy(backbone, memo)
