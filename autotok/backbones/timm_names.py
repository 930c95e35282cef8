"""Names of timm's models, with the tag of their weights: `timm/model.tag`, prefix and tag optional.

A tag decides classes, image size and preprocessing too, so it is never left out on the way.
"""

from __future__ import annotations

from autotok.errors import UnknownName

from .torchvision_shim import ensure_torchvision

ensure_torchvision()

import timm  # noqa: E402


def bare_name(name: str) -> str:
    """The name with its tag, as timm's registry has it."""
    return name.removeprefix("timm/")


def base_name(name: str) -> str:
    """The name of the architecture alone."""
    return bare_name(name).split(".")[0]


def is_timm_name(name: str) -> bool:
    """Whether timm knows a model of this name, and the tag after a dot if there is one."""
    return bool(timm.is_model(base_name(name))) and knows_tag(name)


def knows_tag(name: str) -> bool:
    """Whether timm has weights of the tag in a name; of models that it has none of, any may be."""
    try:
        timm.models.get_pretrained_cfg(bare_name(name))
    except RuntimeError:
        return False
    return True


def check_tag(name: str) -> None:
    """Raise `UnknownName` where timm knows the model and not the tag."""
    base = base_name(name)
    if timm.is_model(base) and not knows_tag(name):
        raise UnknownName("backbone", name, timm.list_pretrained(f"{base}.*"))
