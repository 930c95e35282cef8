"""`twin_of`: another backbone on the same weights, but for a few of its own."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from .base import Backbone

B = TypeVar("B", bound=Backbone)


def twin_of(backbone: B, weight: Callable[[nn.Parameter], nn.Parameter]) -> B:
    """A backbone like this one that holds `weight(p)` for every parameter p; buffers and hooks are
    shared, and the backbone itself is not changed."""
    memo: dict[int, Any] = {id(buffer): buffer for buffer in backbone.buffers()}
    for part in backbone.modules():
        for name, value in vars(part).items():
            if name.endswith("_hooks") and isinstance(value, OrderedDict):
                memo[id(value)] = value
    memo |= {id(parameter): weight(parameter) for parameter in backbone.parameters()}
    return copy.deepcopy(backbone, memo)
