"""The tables of papers as data: one YAML file each, and the figures as printed in `published.csv`.

A row says what was compressed, how and how strongly, in the source's own knobs; where the source
does not state a strength, the row has none, and `row_plan` finds it from the published cost.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from autotok.config import Options
from autotok.documents import read_yaml
from autotok.errors import ConfigError
from autotok.methods.evidence import as_printed
from autotok.names import known
from autotok.plain_data import typed

TABLES = Path(__file__).with_name("tables")
FIGURES = Path(__file__).with_name("published.csv")


@dataclass(frozen=True)
class PublishedFigure:
    """One row of a published table, as printed; None where it gives no such figure."""

    key: str
    """'STUDY/ROW'."""
    source: str
    table: str
    backbone: str
    method: str
    setting: str
    """'baseline', 'plug-in', 'retrain' or 'unstated'."""
    gflops: float | None
    top1: float | None
    """Per cent."""
    throughput_img_s: float | None
    latency_ms: float | None
    memory_mb: float | None
    device: str
    batch_size: int | None
    params_m: float | None
    note: str


@dataclass(frozen=True)
class StudyRow:
    """One row of a study."""

    name: str
    backbone: str
    method: str = "none"
    mode: str = "plug-in"
    """'plug-in', 'retrain', or 'unstated' where the source does not say."""
    schedule: Mapping[str, Any] = field(default_factory=dict)
    """The published strength, in one of the knobs of `methods/published.yaml`; empty: not
    stated."""
    stated: str = ""
    """The same in words, and where the source says so."""
    share: float | None = None
    """Of the uncompressed cost, where the row is a point of a curve that nobody published."""
    options: Options = field(default_factory=dict)
    positions: str = "carried"
    weights: str = ""
    """Name of weights that nobody has under the backbone's name; they need a checkpoint."""
    published: tuple[str, ...] | None = None
    """Keys of its figures; by default 'STUDY/NAME'."""
    training: str = ""
    """Training budget as published."""
    lacks: str = ""
    """Why autotok has no such thing; such a row is not run."""
    note: str = ""

    @property
    def checkpoint_name(self) -> str:
        """What `--checkpoint NAME=FILE` calls its weights."""
        return self.weights or self.backbone


@dataclass(frozen=True)
class StudyTable:
    """A published table, to be run."""

    name: str
    title: str
    source: str
    convention: str
    """How its source counts: 'macs', or 'macs_noattn' without attention products."""
    rows: tuple[StudyRow, ...]
    measured: str = ""
    """'throughput' or 'latency' where the table has that; it is then measured here too."""
    curve: bool = False
    """Whether quality is drawn over cost."""
    remarks: tuple[str, ...] = ()

    def named(self, names: Sequence[str]) -> tuple[StudyRow, ...]:
        """Rows of these names, in the table's order; all where none is given.

        Raises:
            UnknownName: the table has no such row.
        """
        for name in names:
            known(f"row of study '{self.name}'", name, [row.name for row in self.rows])
        return tuple(row for row in self.rows if not names or row.name in names)

    def published(self, row: StudyRow) -> tuple[PublishedFigure, ...]:
        """What is published of a row; empty for one that is not."""
        keys = (f"{self.name}/{row.name}",) if row.published is None else row.published
        return tuple(_figures()[key] for key in keys)

    def baseline(self, row: StudyRow) -> StudyRow | None:
        """The uncompressed row on the same weights."""
        same = (each for each in self.rows if each.checkpoint_name == row.checkpoint_name)
        return next((each for each in same if each.method == "none"), None)


def list_studies() -> list[str]:
    """Names of the studies that come with autotok."""
    return sorted(path.stem for path in TABLES.glob("*.yaml"))


def load_study(name: str) -> StudyTable:
    """The study of a name.

    Raises:
        UnknownName: there is none.
    """
    known("study", name, list_studies())
    data, place = read_yaml(TABLES / f"{name}.yaml")
    table = typed(StudyTable, {"name": name, **data}, place)
    if table.convention not in ("macs", "macs_noattn"):
        raise ConfigError(f"{place}: convention '{table.convention}' is not macs or macs_noattn")
    return table


@cache
def _figures() -> dict[str, PublishedFigure]:
    with FIGURES.open(newline="", encoding="utf-8") as file:
        found = [PublishedFigure(**as_printed(row)) for row in csv.DictReader(file)]
    return {figure.key: figure for figure in found}
