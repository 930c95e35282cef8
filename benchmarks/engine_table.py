"""The engine benchmark's rows, as text on the screen and as a Markdown or CSV file."""

from __future__ import annotations

import csv
import io
import statistics
from dataclasses import dataclass
from pathlib import Path

__all__ = ["HEADER", "Ratio", "Row", "written"]

COLUMNS = ("uncompressed", "MACs", "oracle", "memory", "operators", "ms", "turns")
HEADER = f"{'method':14s} {COLUMNS[0]:>14s} {COLUMNS[1]:>6s} {COLUMNS[2]:>14s}" + "".join(
    f" {name:>9s}" for name in COLUMNS[3:]
)
LEGEND = (
    "Times are ratios, medians over turns with half the distance between quartiles behind them:"
    " to the uncompressed model, and to the slicing oracle (the same blocks on tokens simply sliced"
    " to the same counts). `memory` is the peak of live bytes over the uncompressed model's,"
    " weights left out; `operators` are extra ones that are no views, in the first and in the last"
    " reducing block; `ms` is one forward."
)


@dataclass(frozen=True)
class Ratio:
    """A ratio of times, over all turns."""

    median: float
    spread: float

    @classmethod
    def of(cls, values: list[float]) -> Ratio:
        """From one value per turn."""
        if len(values) < 2:
            return cls(values[0], float("nan"))
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(middle, (high - low) / 2)

    def __str__(self) -> str:
        return f"{self.median:.3f}+-{self.spread:.3f}"


@dataclass(frozen=True)
class Row:
    """One method on one backbone, or why there is none."""

    backbone: str
    schedule: str
    batch: int
    method: str
    plain: Ratio | None = None
    macs: float = 0.0
    oracle: Ratio | None = None
    memory: float = 0.0
    operators: str = ""
    ms: float = 0.0
    turns: int = 0
    note: str = ""

    def cells(self) -> list[str]:
        """The figures, in the order of the columns."""
        numbers = (f"{self.macs:.3f}", f"{self.memory:.3f}", f"{self.ms:.1f}")
        macs, memory, ms = numbers
        return [
            str(self.plain),
            macs,
            str(self.oracle),
            memory,
            self.operators,
            ms,
            str(self.turns),
        ]

    def __str__(self) -> str:
        if self.note:
            return f"{self.method:14s} left out: {self.note}"
        first, macs, oracle, *rest = self.cells()
        line = f"{self.method:14s} {first:>14s} {macs:>6s} {oracle:>14s}"
        return line + "".join(f" {cell:>9s}" for cell in rest)


def written(path: Path, rows: list[Row], conditions: str) -> None:
    """The rows in `path`, with their conditions: Markdown, or CSV by its ending."""
    text = _csv(rows, conditions) if path.suffix == ".csv" else _markdown(rows, conditions)
    path.write_text(text, encoding="utf-8")


def _markdown(rows: list[Row], conditions: str) -> str:
    lines = ["# The engine's speed", "", conditions, "", LEGEND]
    part = None
    for row in rows:
        if part != (row.backbone, row.schedule, row.batch):
            part = (row.backbone, row.schedule, row.batch)
            lines += ["", f"## {row.backbone}, {row.schedule} Batch {row.batch}", ""]
            lines += ["| method | " + " | ".join(COLUMNS) + " |", "|---" * 8 + "|"]
        cells = [f"left out: {row.note}", *[""] * 6] if row.note else row.cells()
        lines.append(f"| {row.method} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _csv(rows: list[Row], conditions: str) -> str:
    out = io.StringIO()
    out.write(f"# {conditions}\n")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["backbone", "schedule", "batch", "method", *COLUMNS, "note"])
    for row in rows:
        cells = [""] * len(COLUMNS) if row.note else row.cells()
        where = [row.backbone, row.schedule, str(row.batch), row.method]
        writer.writerow([*where, *cells, row.note])
    return out.getvalue()
