"""Plain data into dataclasses, values held to their declared types, and back."""

from __future__ import annotations

import dataclasses
import math
import operator
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, TypeVar, Union

from .documents import Place
from .errors import ConfigError, UsageError, nearest

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")  # a word to YAML 1.1: it wants 1.0e-4
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def checked_keys(data: object, cls: type[DataclassInstance], where: Place | str) -> dict[str, Any]:
    """`data` as keyword arguments for a dataclass; unknown keys raise `ConfigError`."""
    place = where if isinstance(where, Place) else Place(where)
    if not isinstance(data, Mapping):
        raise ConfigError(f"{place}: must be a mapping, got {_shown(data)}")
    known = _fields(cls)
    for key in data:
        if key not in known:
            hint = nearest(str(key), known)
            raise ConfigError(
                f"{place.holding(key)}: key '{key}' is unknown;{hint} known: {', '.join(known)}"
            )
    return dict(data)


def typed(cls: type[T], data: object, where: Place | str, *, newer: bool = False) -> T:
    """A dataclass from plain data: keys known and complete, every value of its field's type.

    Fields may be primitives, dataclasses, mappings and tuples of these, optional, or Any. A
    dataclass with a `from_dict(data, where=...)` of its own is read by that.

    Args:
        newer: Leave out unknown keys, which later versions write.

    Raises:
        ConfigError: which key is wrong and what it must be; also what the class itself refuses.
    """
    place = where if isinstance(where, Place) else Place(where)
    fields = _fields(cls)
    if newer and isinstance(data, Mapping):
        data = {key: value for key, value in data.items() if key in fields}
    if type(data) is not dict or not data.keys() <= fields.keys():
        data = checked_keys(data, cls, place)
    values = {}
    for key, value in data.items():
        kind = fields[key]  # a large study holds a million values, and most are plain
        plain = type(value) in kind.plain or _fits(value, kind)
        values[key] = value if plain else _fitted(value, kind, place / key)
    for name in _required(cls):
        if name not in values:
            raise ConfigError(f"{place}: lacks the key '{name}'")
    try:
        return cls(**values)
    except UsageError:
        with place.named():
            raise


class Kept:
    """A dataclass that files of earlier and later versions hold."""

    @classmethod
    def from_dict(cls: type[T], data: object, where: Place | str = "record") -> T:
        """From plain data; keys of later versions are left out."""
        return typed(cls, data, where, newer=True)


def to_plain(value: Any) -> Any:
    """What `typed` reads back: dataclasses as mappings, by their own `to_dict` where they have one,
    tuples as lists; what mappings hold is plain already."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        own = getattr(value, "to_dict", None)
        return plain_fields(value) if own is None else own()
    if isinstance(value, (tuple, list)):
        return [to_plain(item) for item in value]
    return dict(value) if isinstance(value, Mapping) else value


def plain_fields(item: DataclassInstance) -> dict[str, Any]:
    """The fields of a dataclass as `to_plain` has them, in their order."""
    return {field.name: to_plain(getattr(item, field.name)) for field in dataclasses.fields(item)}


@dataclass(frozen=True, eq=False)
class _Kind:
    """A declared type, taken apart once: of `Mapping[str, int]`, Mapping and its parts."""

    hint: Any
    origin: Any
    inner: tuple[_Kind, ...]
    taken: frozenset[type]
    """Types of the values that need no closer look: all of `int | None`, none of a mapping."""
    plain: frozenset[type]
    """Those of them whose every value will do: numbers have to be finite."""
    only: _Kind | None
    """What it is if not None: of `Score | None`, Score."""
    is_dataclass: bool

    @classmethod
    def of(cls, hint: Any) -> _Kind:
        """Of an annotation."""
        origin = typing.get_origin(hint)
        inner = tuple(map(cls.of, typing.get_args(hint)))
        taken = frozenset([hint]) if hint in _WORDS or hint is type(None) else frozenset[type]()
        if origin in (Union, types.UnionType):
            taken = taken.union(*(kind.taken for kind in inner))
        others = [kind for kind in inner if kind.hint is not type(None)]
        optional = origin in (Union, types.UnionType) and len(others) == 1
        return cls(
            *(hint, origin, inner, taken, taken - {float}),
            only=others[0] if optional and others[0].hint not in _WORDS else None,
            is_dataclass=isinstance(hint, type) and dataclasses.is_dataclass(hint),
        )


@cache
def _fields(cls: type[DataclassInstance]) -> dict[str, _Kind]:
    """Types of its fields, in order."""
    hints = typing.get_type_hints(cls)
    return {item.name: _Kind.of(hints[item.name]) for item in dataclasses.fields(cls)}


@cache
def _required(cls: type[DataclassInstance]) -> tuple[str, ...]:
    """Fields without a default."""
    return tuple(
        item.name
        for item in dataclasses.fields(cls)
        if item.init and item.default is item.default_factory is dataclasses.MISSING
    )


def _fits(value: Any, kind: _Kind) -> bool:
    """Whether nothing is to be done or said about a value: most of a large study."""
    own = type(value)
    if own in kind.taken:
        return own is not float or math.isfinite(value)
    return kind.hint is Any


def _fitted(value: Any, kind: _Kind, place: Place) -> Any:
    """A value as its type has it: sequences as tuples, mappings as dictionaries."""
    if _fits(value, kind):
        return value
    if kind.only is not None:
        return _fitted(value, kind.only, place)
    hint, origin, inner = kind.hint, kind.origin, kind.inner
    if origin in (Union, types.UnionType):
        return _one_of(value, inner, place)
    if kind.is_dataclass:
        if isinstance(value, hint):
            return value
        own = getattr(hint, "from_dict", None)
        return typed(hint, value, place) if own is None else own(value, where=place)
    if origin is tuple:
        return _tuple(value, inner, place)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{place}: must be a mapping, got {_shown(value)}")
        within = inner[1]
        return {
            str(key): item if _fits(item, within) else _fitted(item, within, place / str(key))
            for key, item in value.items()
        }
    return _primitive(value, hint, place)


def _one_of(value: Any, kinds: tuple[_Kind, ...], place: Place) -> Any:
    simple = tuple(kind.hint for kind in kinds if kind.hint in _WORDS)
    others = [kind for kind in kinds if kind.hint not in (*simple, type(None))]
    listed = isinstance(value, (list, tuple))
    if len(others) > 1 and isinstance(value, Mapping):  # the dataclass that knows most of the keys
        others.sort(key=lambda kind: -len({*value} & _fields(kind.hint).keys()))
    if others and (not simple or listed == (others[0].origin is tuple)):
        return _fitted(value, others[0], place)
    if len(simple) == 1:
        return _primitive(value, simple[0], place)
    fits = type(value) in simple if isinstance(value, bool) else isinstance(value, simple)
    if not fits or (isinstance(value, float) and not math.isfinite(value)):
        words = ", ".join(_WORDS[kind] for kind in simple)
        raise ConfigError(f"{place}: must be one of {words}, got {_shown(value)}")
    return value


def _tuple(value: Any, inner: tuple[_Kind, ...], place: Place) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{place}: must be a list, got {_shown(value)}")
    open_ended = len(inner) == 2 and inner[1].hint is Ellipsis
    if not open_ended and len(value) != len(inner):
        raise ConfigError(f"{place}: must be a list of {len(inner)}, got {_shown(value)}")
    if open_ended and inner[0].plain.issuperset(map(type, value)):
        return tuple(value)
    kinds = inner[:1] * len(value) if open_ended else inner
    return tuple(
        item if _fits(item, kinds[n]) else _fitted(item, kinds[n], place / n)
        for n, item in enumerate(value)
    )


def _primitive(value: Any, kind: type, place: Place) -> Any:
    if kind is float and isinstance(value, str) and EXPONENT.fullmatch(value):
        value = float(value)
    fits = {int: Integral, float: Real}.get(kind, kind)
    if not isinstance(value, fits) or (kind is not bool and isinstance(value, bool)):
        raise ConfigError(f"{place}: must be {_WORDS[kind]}, got {_shown(value)}")
    if kind is float and (value != value or value in (math.inf, -math.inf)):
        raise ConfigError(f"{place}: must be a finite number, got {value}")
    return value


def whole(what: str, value: object) -> int:
    """A value as an int, whatever kind of integer it is, NumPy's too; true and false are none.

    Raises:
        ConfigError: it is none.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise ConfigError(f"{what} is {_shown(value)}; give a whole number") from None


def _shown(value: object) -> str:
    """A wrong value in a few words."""
    if value is None:
        return "nothing"
    if isinstance(value, (Mapping, Sequence)) and not isinstance(value, str):
        return "a mapping" if isinstance(value, Mapping) else f"a list of {len(value)}"
    return repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
