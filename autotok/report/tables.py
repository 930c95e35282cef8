"""The closing table: as plain cells, and drawn by rich."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from autotok.metrics import METRICS, ON_DEVICE, Metric
from autotok.searching.records.finetune_gain import TuningGain
from autotok.searching.records.record import MEASURED

from .points import Point, gflops
from .sources import Sources

if TYPE_CHECKING:
    from rich.table import Table

SHOWN = (METRICS["latency_ms"], METRICS["peak_memory_mb"])
"""Metrics on the device that tables have in any case, where they are known."""
ORDER = (
    *("uncompressed", "best", "front", "random control", "smaller image", "other backbone"),
    "trial",
)
_TEXT = ("", "method", "mode", "layer:tokens kept", "feasible")
_WIDE = ("mode", "of uncompressed", "against the best", "images", "feasible")
"""Beginnings of the headings that a table of 80 columns has no room for."""
_CONTROLS = dict.fromkeys(("random control", "smaller image", "other backbone"), "yellow")
_STYLES = {"best": "bold green", "uncompressed": "cyan", **_CONTROLS}


def plain_table(
    points: Sequence[Point],
    metric: Metric,
    *,
    sources: Sources | None = None,
    on_device: Sequence[Metric] = SHOWN,
    wide: bool = True,
) -> tuple[list[str], list[list[str]]]:
    """(headings with units, rows of cells), costliest first; columns nobody fills are left out.

    `sources` says what the figures of `on_device` metrics are; it goes into the headings. Unless
    `wide`, only the columns that fit 80 characters: the method's says what the mode's would.
    """
    sources = sources or Sources()
    bases = {p.backbone: p for p in points if p.is_whole}
    points = sorted(points, key=lambda p: (ORDER.index(p.kind) > 0, -p.macs_g))
    better = "" if metric.higher_is_better else ", less is better"
    columns: list[tuple[str, list[str]]] = [
        ("", [p.kind for p in points]),
        ("method", [p.name if wide else p.called for p in points]),
        ("mode", [p.mode_text for p in points]),
        ("layer:tokens kept", [p.schedule for p in points]),
        ("GFLOPs (1e9 MACs)", [gflops(p.macs_g) for p in points]),
        (f"{metric.label} (95 % interval{better})", [_quality(p, metric) for p in points]),
        ("of uncompressed", [_share(p, bases.get(p.backbone), metric) for p in points]),
        (f"against the best ({metric.gain_unit})", [_against_best(p) for p in points]),
        ("images", [_plain(p.num_images) for p in points]),
        *(_device_column(m, sources, points) for m in on_device),
        ("feasible", [_feasible(p) for p in points]),
    ]
    shown = [column for column in columns if wide or not column[0].startswith(_WIDE)]
    used = [(head, cells) for head, cells in shown if any(cell != "-" for cell in cells)]
    rows = [list(cells) for cells in zip(*(cells for _, cells in used), strict=True)]
    return [head for head, _ in used], rows


def on_device_of(names: Iterable[str]) -> tuple[Metric, ...]:
    """Metrics on the device for a run's tables: those of every table, and what its objectives and
    budgets speak of beside them."""
    further = [METRICS[n] for n in ON_DEVICE if n in set(names)]
    return (*SHOWN, *(m for m in further if m not in SHOWN))


def _device_column(
    metric: Metric, sources: Sources, points: Sequence[Point]
) -> tuple[str, list[str]]:
    """(heading, cells) of a metric on the device; where sources differ, cells name theirs."""
    values = [p.value(metric) for p in points]
    origins = ["" if v is None else p.origin for v, p in zip(values, points, strict=True)]
    cells = [metric.number(value) for value in values]
    if MEASURED in origins and set(origins) - {MEASURED, ""}:
        cells = [f"{cell} {origin}".strip() for cell, origin in zip(cells, origins, strict=True)]
    return sources.heading(metric, origins), cells


def closing_table(
    points: Sequence[Point],
    metric: Metric,
    *,
    sources: Sources | None = None,
    on_device: Sequence[Metric] = SHOWN,
    wide: bool = True,
) -> Table:
    """The same table for a terminal; unless `wide`, of the columns that fit 80 characters."""
    from rich.table import Table
    from rich.text import Text

    heads, rows = plain_table(points, metric, sources=sources, on_device=on_device, wide=wide)
    table = Table(show_lines=False, pad_edge=False)
    for head in heads:
        numeric = head not in _TEXT
        table.add_column(Text(head), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row), style=_STYLES.get(row[0]))
    return table


def tuning_table(gains: Sequence[TuningGain], metric: Metric) -> tuple[list[str], list[list[str]]]:
    """(headings with units, rows of cells) of what fine-tuning bought, cheapest first."""
    heads = [
        "trial", "method", "GFLOPs (1e9 MACs)", "plug-in", "fine-tuned",
        f"gain ({metric.gain_unit}, 95 % interval)", "images", "minutes",
        f"{metric.gain_unit} per minute", "verdict",
    ]  # fmt: skip
    rows = [
        [
            str(gain.number),
            gain.method,
            "-" if gain.macs_g is None else gflops(gain.macs_g),
            metric.text(gain.plugged),
            metric.text(gain.tuned),
            "-" if gain.gain is None else gain.gain.text,
            "-" if gain.gain is None else str(gain.gain.num_images),
            f"{gain.minutes:.2f}",
            "-" if gain.per_minute is None else f"{gain.per_minute:+.{metric.digits}f}",
            gain.verdict,
        ]
        for gain in gains
    ]
    return heads, rows


def _against_best(point: Point) -> str:
    """'tie, -0.4 [-1.6, +0.8]': the verdict comes first."""
    paired = point.against_best
    return "-" if paired is None else f"{paired.verdict}, {paired.text}"


def _quality(point: Point, metric: Metric) -> str:
    if point.quality is None:
        return "-"
    if point.low is None or point.high is None:
        return metric.text(point.quality)
    number = metric.number
    interval = f"[{number(point.low)}, {number(point.high)}]"
    return f"{number(point.quality)} {interval} {metric.unit}".strip()


def _share(point: Point, base: Point | None, metric: Metric) -> str:
    """Quality over the uncompressed model's, where a ratio means something."""
    share = point.share_of(base) if metric.higher_is_better else None
    return "-" if share is None else f"{100 * share:.1f} %"


def _feasible(point: Point) -> str:
    if point.over or (point.kind == "uncompressed" and not point.feasible):
        return "over budget"
    if point.within_budget is not None:
        how = "counted, measured" if point.origin == MEASURED else "counted"
        return f"yes, {how}" if point.within_budget else "NO, by count"
    return "yes" if point.feasible else "no"


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"
