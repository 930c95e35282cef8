"""What engines elsewhere take of an ONNX file: `engines.yaml`, read, and a file held against it.

ONNX Runtime is no row: it takes every operator of the standard, and runs the file here anyway.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from autotok.documents import read_yaml
from autotok.plain_data import typed

_FILE = Path(__file__).with_name("engines.yaml")


@dataclass(frozen=True)
class EngineSupport:
    """What one engine takes."""

    name: str
    what: str
    """Name and version in words, and where it is met."""
    source: str
    """Address of its own list."""
    highest_opset: int
    takes: tuple[str, ...]
    limits: Mapping[str, str] = field(default_factory=dict)
    """What it asks of operators that it takes."""

    def verdict(self, operators: Iterable[str], opset: int) -> str:
        """'yes', 'yes, where ...' with what it asks, or 'no: ...' with all that stands against."""
        against = [f"no {name}" for name in sorted({*operators} - {*self.takes})]
        if opset > self.highest_opset:
            against.insert(0, f"operator set {opset} is above its {self.highest_opset}")
        if against:
            return f"no: {', '.join(against)}"
        asked = [f"{name}: {self.limits[name]}" for name in sorted({*operators} & {*self.limits})]
        return f"yes, where {'; '.join(asked)}" if asked else "yes"


@dataclass(frozen=True)
class _File:
    engines: tuple[EngineSupport, ...]


@lru_cache(maxsize=1)
def engine_table() -> tuple[EngineSupport, ...]:
    """Every engine that is known, in the order of the file."""
    data, place = read_yaml(_FILE)
    return typed(_File, data, place).engines


def engine_verdicts(operators: Iterable[str], opset: int) -> dict[str, str]:
    """What each engine makes of a file with these operators, by its name."""
    names = tuple(operators)
    return {engine.name: engine.verdict(names, opset) for engine in engine_table()}
