"""curve.png: quality over the share of the cost, a line per method."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autotok.files import replacing

from .study_folder import OK, Result
from .study_table import StudyTable


def draw_curve(path: Path, study: StudyTable, results: Sequence[Result], title: str) -> None:
    """The picture, with 95 % intervals; nothing where no compressed row ran.

    All lines begin at the uncompressed model, where that ran.
    """
    lines = _lines(results)
    if not lines:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()
    for method, points in lines.items():
        points = sorted(points, key=lambda r: float(r["cost_share"]))
        x = [float(r["cost_share"]) for r in points]
        y, low, high = ([float(r[k]) for r in points] for k in ("value", "low_95", "high_95"))
        below = [max(0.0, q - end) for q, end in zip(y, low, strict=True)]
        above = [max(0.0, end - q) for q, end in zip(y, high, strict=True)]
        axes.errorbar(x, y, yerr=[below, above], marker="o", capsize=3, label=method)
    counted = "attention products left out" if study.convention == "macs_noattn" else "all products"
    axes.set_xlabel(f"share of the uncompressed multiply-accumulates ({counted})")
    axes.set_ylabel(next(iter(lines.values()))[0]["metric"])
    axes.set_title(title.partition(",")[0], fontsize=10, loc="left")
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.legend(fontsize=9)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png", metadata={"Software": "autotok"})


def _lines(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Rows that ran by method, each with the uncompressed one."""
    ran = [r for r in results if r["status"] == OK]
    base = [r for r in ran if r["published_mode"] == "uncompressed"]
    methods = dict.fromkeys(r["method"] for r in ran if r not in base)
    return {m: [*base, *(r for r in ran if r["method"] == m)] for m in methods}
