"""What is known of a method from outside: published numbers, what it is held to, what is missing.

Three tables beside this file: `results.csv` (numbers as printed, with their source), `goldens.yaml`
(whose output each method reproduces) and `not_built.yaml` (methods that autotok does not have, and
why).
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from autotok.documents import read_yaml

FOLDER = Path(__file__).parent
WORDS = {
    "authors": "the authors' code",
    "port": "another's public code",
    "paper": "the paper's equations",
    "none": "nothing outside",
}


@dataclass(frozen=True)
class PublishedResult:
    """One row of a published table, as printed; None where it gives no such figure."""

    method: str
    variant: str
    """Degree or form, in the source's words."""
    backbone: str
    setting: str
    """'plug-in', 'retrain' or 'unstated'."""
    gflops: float | None
    """1e9 multiply-accumulates, mostly; papers rarely say."""
    top1_pct: float | None
    baseline_gflops: float | None
    baseline_top1_pct: float | None
    throughput_img_s: float | None
    latency_ms: float | None
    memory_mb: float | None
    params_m: float | None
    device: str
    batch_size: int | None
    source: str
    table: str
    note: str


@dataclass(frozen=True)
class Held:
    """Whose outputs a method is held to."""

    to: str
    """'authors', 'port', 'paper' or 'none'."""
    what: str
    """Whose code, or why there is nothing."""

    @property
    def words(self) -> str:
        """The same as a phrase."""
        return f"{WORDS[self.to]} ({self.what})"


@dataclass(frozen=True)
class NotBuilt:
    """A known method that autotok does not have."""

    name: str
    title: str
    reason: str


def published_results(method: str) -> list[PublishedResult]:
    """Published numbers of a method, by source; empty where none is recorded."""
    return [row for row in _results() if row.method == method]


def published_methods() -> tuple[str, ...]:
    """Methods that numbers are recorded of, built or not."""
    return tuple(sorted({row.method for row in _results()}))


def held_to(method: str) -> Held:
    """What a method's outputs are held to; methods of other packages are held to nothing here."""
    entry = _yaml("goldens.yaml").get(method)
    return Held("none", "not a method of autotok's own") if entry is None else Held(**entry)


def not_built() -> tuple[NotBuilt, ...]:
    """Known methods that autotok does not have, with the reason, by name."""
    entries = (NotBuilt(e["name"], e["title"], e["reason"]) for e in _yaml("not_built.yaml"))
    return tuple(sorted(entries, key=lambda entry: entry.name))


@cache
def _results() -> tuple[PublishedResult, ...]:
    with (FOLDER / "results.csv").open(newline="", encoding="utf-8") as file:
        return tuple(PublishedResult(**as_printed(row)) for row in csv.DictReader(file))


def as_printed(row: Mapping[str, str]) -> dict[str, Any]:
    """A row of a table of published figures: its words, its numbers, and None for what is blank."""
    words = ("key", "method", "variant", "backbone", "setting", "device", "source", "table", "note")
    read = {"batch_size": int}
    return {k: t if k in words else read.get(k, float)(t) if t else None for k, t in row.items()}


@cache
def _yaml(name: str) -> Any:
    return read_yaml(FOLDER / name)[0]
