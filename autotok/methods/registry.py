"""Names to methods; other packages add theirs through the entry-point group `autotok.methods`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points
from typing import TypeVar

from autotok.errors import ConfigError, IncompatibleMethod, UnknownName
from autotok.facts import BackboneFacts

from .base import TokenReducer

__all__ = ["get_method", "list_methods", "register", "requirements", "unmet_need"]

_LOG = logging.getLogger(__name__)
_METHODS: dict[str, type[TokenReducer]] = {}
_T = TypeVar("_T", bound=type[TokenReducer])


def register(name: str) -> Callable[[_T], _T]:
    """Class decorator: make a `TokenReducer` known under a lower-case name."""

    def add(cls: _T) -> _T:
        if _METHODS.get(name, cls).__qualname__ != cls.__qualname__:
            raise ConfigError(f"method '{name}' is registered twice; pick another name")
        cls.name = name
        _METHODS[name] = cls
        return cls

    return add


@cache
def _load_entry_points() -> dict[str, str]:
    """Why entry points could not be loaded, by name: a broken package must not break the rest."""
    broken: dict[str, str] = {}
    for point in entry_points(group="autotok.methods"):
        try:
            point.load()
        except (Exception, SystemExit) as error:  # foreign code may raise anything
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
            broken[point.name] = f"{point.value} cannot be loaded ({reason})"
            _LOG.warning("methods of plug-in '%s' are missing: %s", point.name, broken[point.name])
    return broken


def get_method(name: str) -> type[TokenReducer]:
    """The class registered under `name`.

    Raises:
        UnknownName: no such method; the nearest one is named.
        IncompatibleMethod: its package cannot be imported; the message says why.
    """
    broken = _load_entry_points()
    if name in _METHODS:
        return _METHODS[name]
    if name in broken:
        raise IncompatibleMethod(
            f"method '{name}' cannot be used: {broken[name]}; mend or remove its package"
        )
    raise UnknownName("method", name, _METHODS)


def list_methods() -> list[str]:
    """All registered names, sorted."""
    _load_entry_points()
    return sorted(_METHODS)


_REQUIREMENTS: dict[str, tuple[Callable[[BackboneFacts], bool], str]] = {
    "cls": (lambda f: f.has_cls, "a class token"),
    "supervised_cls": (
        lambda f: f.has_cls and f.cls_is_supervised,
        "a class token that reaches the loss",
    ),
    "position_table": (lambda f: f.has_position_table, "an absolute position table"),
}


def unmet_need(method: type[TokenReducer], facts: BackboneFacts) -> str | None:
    """What the backbone lacks for this method, in words; None if it fits."""
    for need in sorted(method.requires):
        holds, words = _REQUIREMENTS[need]
        if not holds(facts):
            return words
    return None


def requirements(method: type[TokenReducer]) -> tuple[str, ...]:
    """What the method requires of a backbone, in words."""
    return tuple(_REQUIREMENTS[need][1] for need in sorted(method.requires))


def check_compatible(method: type[TokenReducer], facts: BackboneFacts) -> None:
    """Raise `IncompatibleMethod` naming the unmet need."""
    need = unmet_need(method, facts)
    if need is not None:
        raise IncompatibleMethod(
            f"method '{method.name}' needs {need}, which backbone '{facts.name}' lacks;"
            f" see `autotok methods --backbone {facts.name}`"
        )
