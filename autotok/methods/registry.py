"""Names to methods; other packages add theirs through the entry-point group `autotok.methods`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from autotok.errors import ConfigError, IncompatibleMethod, nearest
from autotok.facts import BackboneFacts
from autotok.registry import Registry

from .base import Count, Kind, Placement, Span, TokenReducer, Training

METHODS: Registry[type[TokenReducer]] = Registry("method", group="autotok.methods")
_T = TypeVar("_T", bound=type[TokenReducer])


def register(name: str) -> Callable[[_T], _T]:
    """Class decorator: make a `TokenReducer` known under a lower-case name.

    Raises:
        ConfigError: another method has it, or the class declares what means nothing.
    """

    def add(cls: _T) -> _T:
        wrong = misdeclared(cls)
        if wrong is not None:
            raise ConfigError(f"method '{name}' cannot be registered: {wrong}")
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


ROUNDINGS = ("ceil", "floor", "round")
_DECLARED = {
    "kind": Kind,
    "placement": Placement,
    "training_need": Training,
    "count": Count,
    "span": Span,
}
_MISNAMED = {"training": "training_need", "exports": "exportable"}


def misdeclared(method: type[TokenReducer]) -> str | None:
    """What the class declares that means nothing, and what would, in words; None if all does."""
    for word, right in _MISNAMED.items():
        mode = word == "training" and isinstance(getattr(method, word, None), bool)
        if hasattr(method, word) and not mode:
            return f"'{word}' declares nothing; name it '{right}'"
    for word, kind in _DECLARED.items():
        given = getattr(method, word, None)
        if not isinstance(given, kind):
            return f"{word} is {given!r}; give one of: {', '.join(map(str, kind))}"
    if method.rounding not in ROUNDINGS:
        return f"rounding is {method.rounding!r}; give one of: {', '.join(ROUNDINGS)}"
    for need in sorted(set(method.requires) - set(REQUIREMENTS)):
        hint = nearest(need, REQUIREMENTS)
        return f"it requires '{need}';{hint} give a set of: {', '.join(REQUIREMENTS)}"
    return None


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
