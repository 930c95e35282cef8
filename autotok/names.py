"""Names that a user may give and many rooms know, where asking costs no heavy import."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence

from autotok.errors import ConfigError, UnknownName
from autotok.plain_data import whole

ENGINES = ("local", "ray")
NUMBER_FORMATS = ("auto", "float32", "bfloat16", "float16")
SUBNETS = ("fixed", "search")


def check_precision(name: str) -> None:
    """Raise `UnknownName` unless models can be judged in it."""
    known("precision", name, NUMBER_FORMATS)


def check_number(what: str, value: int | None) -> None:
    """Raise `ConfigError` where a number of images is below 1; None is as many as usual."""
    if value is not None and whole(what, value) < 1:
        raise ConfigError(f"{what} is {value}; give at least 1")


def is_named(spec: str) -> bool:
    """Whether data is one of the built-in sets, not a folder."""
    return spec in ("demo", "digits") or spec.partition(":")[0] == "cifar10"


def is_numbered(names: Sequence[str]) -> bool:
    """Whether names of classes are their numbers, which say nothing."""
    return all(name and name.lstrip("0") == str(i or "") for i, name in enumerate(names))


def from_module(text: str) -> object:
    """What `module:name` means; it raises whatever importing that raises."""
    module, _, path = text.partition(":")
    found: object = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found


def text_of(thing: object) -> str:
    """A name, or what is asked for by `module:name`, as text that means it again, else <its
    type>."""
    if isinstance(thing, str):
        return thing
    module, name = getattr(thing, "__module__", ""), getattr(thing, "__qualname__", "<")
    if "<" in name or module == "__main__":  # nothing that another process could import
        return f"<{type(thing).__name__}>"
    return f"{module}:{name}"


def known(kind: str, name: str, names: Iterable[str]) -> str:
    """`name` itself; `UnknownName` with the nearest one where it is not among `names`."""
    names = list(names)
    if name not in names:
        raise UnknownName(kind, name, names)
    return name
