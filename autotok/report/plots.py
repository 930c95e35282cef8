"""The Pareto picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autotok.files import replacing

from .points import Metric, Point

__all__ = ["pareto_png"]

INK, GREY, FRONT, CONTROL = "#222222", "#b8b8b8", "#0b6e4f", "#d1720a"
BASE, BEST, LIMIT, TUNED = "#2b59c3", "#c1121f", "#666666", "#6a4c93"
MAX_LABELS = 6


def pareto_png(
    path: Path,
    points: Sequence[Point],
    metric: Metric,
    *,
    budget_macs_g: float | None = None,
    title: str = "",
) -> Path:
    """`path`, now a picture of quality against GFLOPs.

    Evaluated trials are grey; the front, the random control and the uncompressed model carry their
    95 % intervals; the budget is a dashed line. Fine-tuned configurations are triangles, with an
    arrow from where they were as plug-ins. Points without a quality are left out.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points = [p for p in points if p.quality is not None]
    figure = Figure(figsize=(8.0, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()
    of_kind = {kind: _sorted(points, kind) for kind in ("trial", "uncompressed", "random control")}
    front = sorted((p for p in points if p.kind in ("front", "best")), key=lambda p: p.macs_g)
    if of_kind["trial"]:
        axes.scatter(*_xy(of_kind["trial"]), s=22, color=GREY, label="evaluated", zorder=2)
    _draw(axes, of_kind["random control"], CONTROL, "s", "random pruning (control)", line=True)
    _draw(axes, front, FRONT, "o", "Pareto front", line=True)
    _draw_tuned(axes, [*front, *of_kind["trial"]])
    _draw(axes, of_kind["uncompressed"], BASE, "D", "uncompressed")
    best = [p for p in front if p.kind == "best"]
    if best:
        axes.scatter(*_xy(best), s=190, marker="*", color=BEST, label="best", zorder=6)
    if budget_macs_g is not None:
        axes.axvline(budget_macs_g, color=LIMIT, linestyle="--", linewidth=1.2, zorder=1)
        axes.annotate(
            f"budget {budget_macs_g:g} GFLOPs", (budget_macs_g, 0.02), xytext=(4, 0), color=LIMIT,
            fontsize=9, rotation=90, va="bottom", ha="left", textcoords="offset points",
            xycoords=axes.get_xaxis_transform(),
        )  # fmt: skip
    _name(axes, front, metric)
    _frame(axes, metric, points, budget_macs_g, title)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png", metadata={"Software": "autotok"})
    return path


def _draw(
    axes: Any, points: Sequence[Point], colour: str, marker: str, label: str, *, line: bool = False
) -> None:
    """One series with its intervals."""
    if not points:
        return
    x, y = _xy(points)
    below = [
        max(0.0, q - (p.low if p.low is not None else q)) for p, q in zip(points, y, strict=True)
    ]
    above = [
        max(0.0, (p.high if p.high is not None else q) - q) for p, q in zip(points, y, strict=True)
    ]
    axes.errorbar(
        x, y, yerr=[below, above], color=colour, marker=marker, markersize=6, capsize=3,
        elinewidth=1, linewidth=1.4 if line else 0, label=label, zorder=4,
    )  # fmt: skip


def _draw_tuned(axes: Any, points: Sequence[Point]) -> None:
    """Triangles over what was fine-tuned, and an arrow from its quality as a plug-in."""
    tuned = [p for p in points if p.retrained]
    if not tuned:
        return
    before = [p for p in tuned if p.untuned is not None]
    label = "before fine-tuning (plug-in)" if before else None
    plugged = [p.macs_g for p in before], [p.untuned for p in before]
    for point in before:
        axes.annotate(
            "", xy=(point.macs_g, point.quality), xytext=(point.macs_g, point.untuned), zorder=4.5,
            arrowprops={"arrowstyle": "-|>", "color": TUNED, "linewidth": 1.1, "shrinkB": 5},
        )  # fmt: skip
    axes.scatter(
        *plugged, s=34, marker="^", facecolor="white", edgecolor=TUNED, linewidth=1.1, zorder=4.6,
        label=label,
    )  # fmt: skip
    axes.scatter(
        *_xy(tuned), s=75, marker="^", color=TUNED, edgecolor="white", linewidth=0.8, zorder=5,
        label="fine-tuned",
    )  # fmt: skip


def _name(axes: Any, front: Sequence[Point], metric: Metric) -> None:
    """Write methods beside the front, best first, as many as stay readable."""
    from matplotlib.patheffects import withStroke

    sign = 1 if metric.higher_is_better else -1
    by_worth = sorted(front, key=lambda p: (p.kind != "best", -sign * (p.quality or 0.0)))
    for point in by_worth[:: max(1, len(by_worth) // MAX_LABELS)]:
        axes.annotate(
            point.method, (point.macs_g, point.quality), xytext=(7, -12 * sign), fontsize=8.5,
            textcoords="offset points", color=INK, zorder=7,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )  # fmt: skip


def _frame(
    axes: Any, metric: Metric, points: Sequence[Point], budget: float | None, title: str
) -> None:
    unit = f" [{metric.unit}]" if metric.unit else ""
    better = "" if metric.higher_is_better else " (less is better)"
    axes.set_xlabel("cost [GFLOPs = 1e9 multiply-accumulates, attention included]")
    axes.set_ylabel(f"{metric.label}{unit}{better}")
    if title:
        axes.set_title(title, fontsize=11, loc="left")
    costs = [p.macs_g for p in points] + ([] if budget is None else [budget])
    if costs:
        margin = 0.05 * (max(costs) - min(costs) or max(costs) or 1.0)
        axes.set_xlim(max(0.0, min(costs) - margin), max(costs) + 2 * margin)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if points:
        corner = "lower right" if metric.higher_is_better else "upper right"
        axes.legend(loc=corner, frameon=True, framealpha=0.9, fontsize=9)


def _sorted(points: Sequence[Point], kind: str) -> list[Point]:
    return sorted((p for p in points if p.kind == kind), key=lambda p: p.macs_g)


def _xy(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [p.macs_g for p in points], [p.quality or 0.0 for p in points]
