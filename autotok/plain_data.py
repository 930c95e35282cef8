"""Plain data into dataclasses: YAML read with limits, values held to their declared types.

A mistake costs one sentence that says first where it stands: `space.yaml:7: methods: ...`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Union

import yaml

from autotok.errors import ConfigError, UsageError, nearest

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
Keys = tuple[str | int, ...]

MAX_BYTES = 2**18
MAX_DEPTH = 32
MAX_VALUES = 50_000
"""Aliases counted at every use: a few lines of them can stand for billions of values."""
MAX_WHOLE = 2**63
_TAG = "tag:yaml.org,2002:"
_TAGS = {_TAG + name for name in ("null", "bool", "int", "float", "str", "map", "seq")}
_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")  # a word to YAML 1.1: it wants 1.0e-4
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


@dataclass(frozen=True)
class Place:
    """Where a value stands: in which file or what else, under which keys, and in which line."""

    source: str
    keys: Keys = ()
    lines: Mapping[Keys, int] = field(default_factory=dict, repr=False, compare=False)

    def __truediv__(self, key: str | int) -> Place:
        return Place(self.source, (*self.keys, key), self.lines)

    def __str__(self) -> str:
        longest = (self.keys[:n] for n in range(len(self.keys), -1, -1))
        line = next((self.lines[keys] for keys in longest if keys in self.lines), None)
        path = "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in self.keys)
        source = self.source if line is None else f"{self.source}:{line}"
        return f"{source}: {path.lstrip('.')}" if path else source

    def holding(self, key: object) -> Place:
        """This place, in the line of one of its keys."""
        line = next((n for keys, n in self.lines.items() if keys == (*self.keys, key)), None)
        return self if line is None else Place(self.source, self.keys, {self.keys: line})

    @contextmanager
    def named(self) -> Iterator[None]:
        """Puts this place in front of what an error inside says."""
        try:
            yield
        except UsageError as error:
            error.args = (f"{self}: {error}",)
            raise


# --- reading


def read_yaml(path: Path, *, like: str = "") -> tuple[Any, Place]:
    """The plain data in a YAML (or JSON) file, and the place to name when it is wrong.

    Args:
        like: What a good file is, for the sentence about one that is not there.

    Raises:
        ConfigError: no file, too large, not UTF-8, or not YAML within the limits.
    """
    try:
        if not path.is_file():
            raise ConfigError(f"'{path}' does not exist; give {like or 'a YAML file'}")
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise ConfigError(f"'{path}' is larger than {MAX_BYTES >> 10} KB; give the right file")
        text = raw.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        reason = getattr(error, "strerror", None) or f"not UTF-8 text: {error}"
        raise ConfigError(f"'{path}' cannot be read ({reason}); give another file") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> tuple[Any, Place]:
    """The plain data in a YAML (or JSON) text, and its place.

    Mappings have text as keys, each once; dates and other tagged values are not read as such.

    Raises:
        ConfigError: what is wrong, with its line.
    """
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        reading = _Reading(loader, source)
        data = None if node is None else reading.plain(node, ())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        line = "" if mark is None else f":{mark.line + 1}"
        problem = getattr(error, "problem", None) or " ".join(str(error).split())[:120]
        raise ConfigError(f"{source}{line}: is not valid YAML ({problem}); mend it") from error
    finally:
        if loader is not None:
            loader.dispose()
    return data, Place(source, lines=reading.lines)


def parse_json(text: str, source: str) -> Any:
    """The plain data in a JSON text that this program wrote.

    Raises:
        ConfigError: it is damaged.
    """
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{source}: is not valid JSON ({error})") from error


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader without dates, which no file of ours has, and with a limit on depth."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """A node; deeper ones than anybody writes would exhaust the stack."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            problem = f"nested more than {MAX_DEPTH} deep"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=self.get_mark())
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


_Loader.yaml_implicit_resolvers = {
    first: [rule for rule in rules if rule[0] in _TAGS]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _Reading:
    """One document on its way from nodes to plain data."""

    def __init__(self, loader: _Loader, source: str) -> None:
        self._loader, self._source, self._left = loader, source, MAX_VALUES
        self.lines: dict[Keys, int] = {}

    def plain(self, node: yaml.Node, keys: Keys) -> Any:
        """What a node holds."""
        self.lines.setdefault(keys, node.start_mark.line + 1)
        self._left -= 1
        if self._left < 0 or len(keys) > MAX_DEPTH:
            self._refuse(keys[:3], f"holds more than {MAX_VALUES:,} values, or an alias to itself")
        if node.tag not in _TAGS:
            self._refuse(keys, f"the tag '{node.tag}' is not allowed; leave it out")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, keys)
        if isinstance(node, yaml.SequenceNode):
            return [self.plain(item, (*keys, n)) for n, item in enumerate(node.value)]
        try:
            value = self._loader.construct_object(node)
        except (ValueError, KeyError, IndexError):  # what `!!int x` raises, and 5,000 digits
            kind = node.tag.removeprefix(_TAG)
            self._refuse(keys, f"'{node.value[:40]}' is no {kind} that can be read")
        if isinstance(value, int) and abs(value) >= MAX_WHOLE:
            self._refuse(keys, f"{node.value[:20]}... is too large a number; give one below 2**63")
        return value

    def _mapping(self, node: yaml.MappingNode, keys: Keys) -> dict[str | int, Any]:
        found: dict[str | int, Any] = {}
        for name, value in node.value:
            key = self.plain(name, keys) if isinstance(name, yaml.ScalarNode) else None
            line = name.start_mark.line + 1
            if not isinstance(key, (str, int)) or isinstance(key, bool):
                shown = name.value[:40] if isinstance(name.value, str) else "..."
                self._refuse(keys, f"key '{shown}' is not text; put it in quotes", line)
            below = (*keys, key)
            if key in found:
                first = self.lines[below]
                self._refuse(below, f"is given twice, first in line {first}; keep one", line)
            self.lines[below] = line
            found[key] = self.plain(value, below)
        return found

    def _refuse(self, keys: Keys, what: str, line: int | None = None) -> typing.NoReturn:
        lines = self.lines if line is None else {**self.lines, keys: line}
        raise ConfigError(f"{Place(self._source, keys, lines)}: {what}")


# --- checking


def checked_keys(data: object, cls: type[DataclassInstance], where: Place | str) -> dict[str, Any]:
    """`data` as keyword arguments for a dataclass; unknown keys raise `ConfigError`."""
    place = where if isinstance(where, Place) else Place(where)
    if not isinstance(data, Mapping):
        raise ConfigError(f"{place}: must be a mapping, got {_shown(data)}")
    known = _names(cls)
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
    hints = _hints(cls)
    if newer and isinstance(data, Mapping):
        data = {key: value for key, value in data.items() if key in _names(cls)}
    values = {
        key: value if _fits(value, hints[key]) else _fitted(value, hints[key], place / key)
        for key, value in checked_keys(data, cls, place).items()
    }
    for name in _required(cls):
        if name not in values:
            raise ConfigError(f"{place}: lacks the key '{name}'")
    with place.named():
        return cls(**values)


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


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


@cache
def _names(cls: type[DataclassInstance]) -> dict[str, None]:
    """Of its fields, in order, to look up."""
    return dict.fromkeys(item.name for item in dataclasses.fields(cls))


@cache
def _required(cls: type[DataclassInstance]) -> tuple[str, ...]:
    """Fields without a default."""
    return tuple(
        item.name
        for item in dataclasses.fields(cls)
        if item.init and item.default is item.default_factory is dataclasses.MISSING
    )


@cache
def _parts(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """Of `Mapping[str, int]`, Mapping and (str, int)."""
    return typing.get_origin(hint), typing.get_args(hint)


@cache
def _taken(hint: Any) -> frozenset[type]:
    """Types of the values that need no closer look: all of `int | None`, none of a mapping."""
    kind, inner = _parts(hint)
    if kind in (Union, types.UnionType):
        return frozenset[type]().union(*map(_taken, inner))
    return frozenset([hint]) if hint in _WORDS or hint is type(None) else frozenset()


def _fits(value: Any, hint: Any) -> bool:
    """Whether nothing is to be done or said about a value: most of a large study."""
    kind = type(value)
    return hint is Any or (kind in _taken(hint) and (kind is not float or math.isfinite(value)))


def _fitted(value: Any, hint: Any, place: Place) -> Any:
    """A value as its type has it: sequences as tuples, mappings as dictionaries."""
    if _fits(value, hint):
        return value
    kind, inner = _parts(hint)
    if kind in (Union, types.UnionType):
        return _one_of(value, inner, place)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if isinstance(value, hint):
            return value
        own = getattr(hint, "from_dict", None)
        return typed(hint, value, place) if own is None else own(value, where=place)
    if kind is tuple:
        return _tuple(value, inner, place)
    if isinstance(kind, type) and issubclass(kind, Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{place}: must be a mapping, got {_shown(value)}")
        within = inner[1]
        return {
            str(key): item if _fits(item, within) else _fitted(item, within, place / str(key))
            for key, item in value.items()
        }
    return _primitive(value, hint, place)


def _one_of(value: Any, kinds: tuple[Any, ...], place: Place) -> Any:
    simple = tuple(kind for kind in kinds if kind in _WORDS)
    others = [kind for kind in kinds if kind not in (*simple, type(None))]
    listed = isinstance(value, (list, tuple))
    if len(others) > 1 and isinstance(value, Mapping):  # the dataclass that knows most of the keys
        others.sort(key=lambda kind: -len({*value} & {f.name for f in dataclasses.fields(kind)}))
    if others and (not simple or listed == (typing.get_origin(others[0]) is tuple)):
        return _fitted(value, others[0], place)
    if len(simple) == 1:
        return _primitive(value, simple[0], place)
    if not isinstance(value, simple) or (isinstance(value, float) and not math.isfinite(value)):
        words = ", ".join(_WORDS[kind] for kind in simple)
        raise ConfigError(f"{place}: must be one of {words}, got {_shown(value)}")
    return value


def _tuple(value: Any, inner: tuple[Any, ...], place: Place) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{place}: must be a list, got {_shown(value)}")
    open_ended = len(inner) == 2 and inner[1] is Ellipsis
    if not open_ended and len(value) != len(inner):
        raise ConfigError(f"{place}: must be a list of {len(inner)}, got {_shown(value)}")
    kinds = inner[:1] * len(value) if open_ended else inner
    return tuple(
        item if _fits(item, kinds[n]) else _fitted(item, kinds[n], place / n)
        for n, item in enumerate(value)
    )


def _primitive(value: Any, kind: type, place: Place) -> Any:
    if kind is float and isinstance(value, str) and _EXPONENT.fullmatch(value):
        value = float(value)
    fits = {int: Integral, float: Real}.get(kind, kind)
    if not isinstance(value, fits) or (kind is not bool and isinstance(value, bool)):
        raise ConfigError(f"{place}: must be {_WORDS[kind]}, got {_shown(value)}")
    if kind is float and (value != value or value in (math.inf, -math.inf)):
        raise ConfigError(f"{place}: must be a finite number, got {value}")
    return value


def _shown(value: object) -> str:
    """A wrong value in a few words."""
    if value is None:
        return "nothing"
    if isinstance(value, (Mapping, Sequence)) and not isinstance(value, str):
        return "a mapping" if isinstance(value, Mapping) else f"a list of {len(value)}"
    return repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
