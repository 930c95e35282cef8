"""Names to methods; other packages add theirs through the entry-point group `autotok.methods`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from autotok.errors import IncompatibleMethod
from autotok.facts import BackboneFacts
from autotok.registry import Registry

from .base import TokenReducer

METHODS: Registry[type[TokenReducer]] = Registry("method", group="autotok.methods")
_T = TypeVar("_T", bound=type[TokenReducer])


def register(name: str) -> Callable[[_T], _T]:
    """Class decorator: make a `TokenReducer` known under a lower-case name."""

    def add(cls: _T) -> _T:
        METHODS.add(name, cls)
        cls.name = name
        return cls

    return add


def get_method(name: str) -> type[TokenReducer]:
    """The class registered under `name`.

    Raises:
        UnknownName: no such method; the nearest one is named.
        ConfigError: its package cannot be imported; the message says why.
    """
    return METHODS.get(name)


def list_methods() -> list[str]:
    """All registered names, sorted."""
    return METHODS.names()


REQUIREMENTS: dict[str, tuple[Callable[[BackboneFacts], bool], str]] = {
    "cls": (lambda f: f.has_cls, "a class token"),
    "supervised_cls": (
        lambda f: f.has_cls and f.cls_is_supervised,
        "a class token that reaches the loss",
    ),
    "plain_stem": (lambda f: f.plain_stem, "a stem that embeds each patch by itself"),
    "even_grid": (
        lambda f: all(side % 2 == 0 for side in f.grid),
        "a patch grid of even sides",
    ),
    "classes": (lambda f: f.num_classes > 0, "a classifier to learn from"),
    "visible": (lambda f: f.image_shape[0] in (1, 3), "images of one channel or three colours"),
    "position_table": (lambda f: f.has_position_table, "an absolute position table"),
}


def unmet_need(method: type[TokenReducer], facts: BackboneFacts) -> str | None:
    """What the backbone lacks for this method, in words; None if it fits."""
    for need in sorted(method.requires):
        holds, words = REQUIREMENTS[need]
        if not holds(facts):
            return words
    return None


def requirements(method: type[TokenReducer]) -> tuple[str, ...]:
    """What the method requires of a backbone, in words."""
    return tuple(REQUIREMENTS[need][1] for need in sorted(method.requires))


def check_compatible(method: type[TokenReducer], facts: BackboneFacts) -> None:
    """Raise `IncompatibleMethod` naming the unmet need."""
    need = unmet_need(method, facts)
    if need is not None:
        raise IncompatibleMethod(
            f"method '{method.name}' needs {need}, which backbone '{facts.name}' lacks;"
            f" see `autotok methods --backbone {facts.name}`"
        )
