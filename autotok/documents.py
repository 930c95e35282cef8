"""YAML and JSON read as plain data, within limits, every value with the place where it stands.

A mistake costs one sentence that says first where it stands: `space.yaml:7: methods: ...`.
"""

from __future__ import annotations

import json
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from .errors import ConfigError, UsageError

Keys = tuple[str | int, ...]

MAX_BYTES = 2**18
MAX_DEPTH = 32
MAX_VALUES = 50_000
"""Aliases counted at every use: a few lines of them can stand for billions of values."""
MAX_WHOLE = 2**63
_TAG = "tag:yaml.org,2002:"
_TAGS = {_TAG + name for name in ("null", "bool", "int", "float", "str", "map", "seq")}


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
