"""The closing table: as plain cells, and drawn by rich."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .points import Metric, Point

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["closing_table", "plain_table"]

ORDER = ("uncompressed", "best", "front", "random control", "trial")
_STYLES = {"best": "bold green", "uncompressed": "cyan", "random control": "yellow"}


def plain_table(
    points: Sequence[Point], metric: Metric, *, latency_source: str = "predicted"
) -> tuple[list[str], list[list[str]]]:
    """(headings with units, rows of cells), costliest first; columns nobody fills are left out.

    Args:
        latency_source: 'predicted' or 'measured', and on what: it goes into the headings.
    """
    base = next((p.quality for p in points if p.kind == "uncompressed"), None)
    points = sorted(points, key=lambda p: (ORDER.index(p.kind) > 0, -p.macs_g))
    better = "" if metric.higher_is_better else ", less is better"
    columns: list[tuple[str, list[str]]] = [
        ("", [p.kind for p in points]),
        ("method", [_method(p) for p in points]),
        ("layer:tokens kept", [p.schedule for p in points]),
        ("GFLOPs (1e9 MACs)", [_cost(p.macs_g) for p in points]),
        (f"{metric.label} (95 % interval{better})", [_quality(p, metric) for p in points]),
        ("of uncompressed", [_share(p, base, metric) for p in points]),
        ("images", [_plain(p.num_images) for p in points]),
        (f"latency ms ({latency_source})", [_plain(p.latency_ms, 2) for p in points]),
        (f"peak memory MB ({latency_source})", [_plain(p.peak_memory_mb, 1) for p in points]),
        ("feasible", [_feasible(p) for p in points]),
    ]
    used = [(head, cells) for head, cells in columns if any(cell != "-" for cell in cells)]
    rows = [list(cells) for cells in zip(*(cells for _, cells in used), strict=True)]
    return [head for head, _ in used], rows


def closing_table(
    points: Sequence[Point], metric: Metric, *, latency_source: str = "predicted"
) -> Table:
    """The same table for a terminal."""
    from rich.table import Table
    from rich.text import Text

    heads, rows = plain_table(points, metric, latency_source=latency_source)
    table = Table(show_lines=False, pad_edge=False)
    for head in heads:
        numeric = head not in ("", "method", "layer:tokens kept", "feasible")
        table.add_column(Text(head), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row), style=_STYLES.get(row[0]))
    return table


def _method(point: Point) -> str:
    return f"{point.method} (fine-tuned)" if point.finetuned else point.method


def _quality(point: Point, metric: Metric) -> str:
    if point.quality is None:
        return "-"
    digits = 1 if metric.unit == "%" else 4
    value = f"{point.quality:.{digits}f}"
    if point.low is None or point.high is None:
        return f"{value} {metric.unit}".strip()
    return f"{value} [{point.low:.{digits}f}, {point.high:.{digits}f}] {metric.unit}".strip()


def _share(point: Point, base: float | None, metric: Metric) -> str:
    """Quality over the uncompressed model's, where a ratio means something."""
    if base is None or base <= 0 or point.quality is None or not metric.higher_is_better:
        return "-"
    return f"{100 * point.quality / base:.1f} %"


def _cost(macs_g: float) -> str:
    """Three decimals; more where a small model needs them."""
    return f"{macs_g:.3f}" if macs_g >= 0.1 else f"{macs_g:.3g}"


def _feasible(point: Point) -> str:
    if point.kind == "uncompressed" and not point.feasible:
        return "over budget"
    if point.within_budget is not None:
        return "yes, counted" if point.within_budget else "NO, by count"
    return "yes" if point.feasible else "no"


def _plain(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
