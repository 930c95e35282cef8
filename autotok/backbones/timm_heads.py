"""What the head of a model of timm gives: classes, or a projection beside that of texts.

timm calls the width of a projection `num_classes`, and nothing but names and weights tells the two
apart. CLIP's image towers and the Perception Encoder's project, unless a tag says that they were
fine-tuned on classes. A projection has no bias: timm fills in zeros, which no training leaves.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import Tensor, nn

from .timm_names import bare_name
from .torchvision_shim import ensure_torchvision

ensure_torchvision()

import timm  # noqa: E402

PROJECTING = ("clip", "pe_core")
"""Words in the names of models that were trained beside texts, and keep what they project with."""
FINE_TUNED = "_ft_in"
"""In the tags of weights whose head is one of classes all the same."""


def projects(name: str) -> bool:
    """Whether timm's weights of a name, its tag included, end in a projection."""
    return any(word in name for word in PROJECTING) and FINE_TUNED not in name


def head_classes(model: Any) -> int:
    """Classes as the head gives them, which may have been replaced, else as the model says; 0 of a
    model without a head, and of a projection."""
    head = getattr(model, "head", None)
    if isinstance(head, nn.Identity):
        return 0
    found = int(head.out_features if isinstance(head, nn.Linear) else model.num_classes)
    return 0 if _is_projection(model, head, found) else found


def label_names(model: Any, classes: int) -> tuple[str, ...]:
    """What the model's configuration calls its classes; () where it does not say so of as many."""
    config = getattr(model, "pretrained_cfg", None) or {}
    names = tuple(map(str, config.get("label_names") or ()))
    return names if len(names) == classes else ()


def named_classes(name: str) -> int | None:
    """Classes that timm's weights of a name know, without fetching them; None if unsaid."""
    told = timm.models.get_pretrained_cfg(bare_name(name), allow_unregistered=True)
    if told is None:
        return None
    return 0 if projects(name_of(told.to_dict())) else int(told.num_classes)


def name_of(config: Any) -> str:
    """What timm's configuration of weights calls them, with the tag."""
    return f"{config.get('architecture') or ''}.{config.get('tag') or ''}"


def _is_projection(model: Any, head: nn.Module | None, width: int) -> bool:
    """By the tag, as long as the head is its own; else by the weights that a file put there."""
    config = getattr(model, "pretrained_cfg", None) or {}
    name = name_of(config)
    if projects(name) and width == config.get("num_classes"):
        return True
    plain = isinstance(getattr(model, "norm_pre", nn.Identity()), nn.Identity)
    if plain and not any(word in name for word in PROJECTING):
        return False
    if not isinstance(head, nn.Linear) or width not in _widths():
        return False
    bias: Tensor | None = head.bias
    return bias is None or not (bias.is_meta or bool(bias.any()))


@cache
def _widths() -> frozenset[int]:
    """Of all projections that timm has weights of."""
    named = [name for name in timm.list_pretrained() if projects(name)]
    return frozenset(timm.models.get_pretrained_cfg(name).num_classes for name in named) - {0}
