"""The Pareto picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from autotok.files import replacing
from autotok.metrics import METRICS, Metric

from .fronts import non_dominated
from .labels import label_points
from .points import Point

INK, GREY, FRONT, CONTROL = "#222222", "#b8b8b8", "#0b6e4f", "#d1720a"
BASE, BEST, LIMIT, TUNED = "#2b59c3", "#c1121f", "#666666", "#6a4c93"
MAX_LABELS = 6


def pareto_png(
    path: Path,
    points: Sequence[Point],
    metric: Metric,
    *,
    x: Metric = METRICS["macs"],
    limits: Mapping[str, float] = MappingProxyType({}),
    title: str = "",
) -> Path:
    """`path`, now a picture of a metric, upwards, against another, GFLOPs by default.

    Evaluated trials are grey; the front, the controls and the uncompressed model carry the
    95 % intervals of a quality; `limits`, by metric's name and in its column's unit, are dashed
    lines. Fine-tuned configurations are triangles, with an arrow from where they were as plug-ins.
    Points without one of the two values are left out; where further objectives keep points on the
    front, the line runs through those that these two alone would.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    plane = _Plane(x, metric)
    points = [p for p in points if None not in (p.value(x), p.value(metric))]
    figure = Figure(figsize=(8.0, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()
    kinds = ("trial", "uncompressed", "random control", "smaller image", "other backbone")
    of_kind = {kind: plane.of(points, kind) for kind in kinds}
    front = plane.of(points, "front", "best")
    leading = non_dominated(front, (x, metric))
    if of_kind["trial"]:
        axes.scatter(*plane.xy(of_kind["trial"]), s=22, color=GREY, label="evaluated", zorder=2)
    plane.draw(axes, of_kind["random control"], CONTROL, "s", "random pruning (control)", line=True)
    plane.draw(axes, of_kind["smaller image"], CONTROL, "v", "smaller images (control)")
    plane.draw(axes, of_kind["other backbone"], CONTROL, "H", "other backbone (control)")
    plane.draw(axes, leading, FRONT, "o", "Pareto front", line=True)
    others = [p for p in front if p not in leading]
    plane.draw(axes, others, FRONT, "P", "on the front by its other objectives")
    if metric.kind == "judged":
        plane.draw_tuned(axes, [*front, *of_kind["trial"]])
    plane.draw(axes, of_kind["uncompressed"], BASE, "D", "uncompressed")
    best = [p for p in front if p.kind == "best"]
    if best:
        axes.scatter(*plane.xy(best), s=190, marker="*", color=BEST, label="best", zorder=6)
    _draw_limits(axes, plane, limits)
    _frame(axes, plane, points, limits.get(x.name), title)
    plane.name(axes, front, points, leading)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png", metadata={"Software": "autotok"})
    return path


def _draw_limits(axes: Any, plane: _Plane, limits: Mapping[str, float]) -> None:
    """Dashed lines for the budgets on either axis."""
    style = {"color": LIMIT, "linestyle": "--", "linewidth": 1.2, "zorder": 1}
    text = {"color": LIMIT, "fontsize": 9, "va": "bottom", "ha": "left"}
    text |= {"textcoords": "offset points"}
    for metric, across in ((plane.x, True), (plane.y, False)):
        limit = limits.get(metric.name)
        if limit is None:
            continue
        unit = "GFLOPs" if metric.name == "macs" else metric.unit
        told = f"budget {limit:g} {unit}"
        if across:
            axes.axvline(limit, **style)
            at = {"xycoords": axes.get_xaxis_transform(), "xytext": (4, 0), "rotation": 90}
            axes.annotate(told, (limit, 0.02), **text, **at)
        else:
            axes.axhline(limit, **style)
            at = {"xycoords": axes.get_yaxis_transform(), "xytext": (0, 3)}
            axes.annotate(told, (0.02, limit), **text, **at)


@dataclass(frozen=True)
class _Plane:
    """The two metrics of a picture, and how points are drawn in them."""

    x: Metric
    y: Metric

    def of(self, points: Sequence[Point], *kinds: str) -> list[Point]:
        return sorted((p for p in points if p.kind in kinds), key=lambda p: p.value(self.x) or 0.0)

    def xy(self, points: Sequence[Point]) -> tuple[list[float], list[float]]:
        return [p.value(self.x) or 0.0 for p in points], [p.value(self.y) or 0.0 for p in points]

    def draw(
        self,
        axes: Any,
        points: Sequence[Point],
        colour: str,
        marker: str,
        label: str,
        *,
        line: bool = False,
    ) -> None:
        """One series, with the intervals of a quality."""
        if not points:
            return
        x, y = self.xy(points)
        ends = [(p.low, p.high) if self.y.kind == "judged" else (None, None) for p in points]
        below = [max(0.0, q - (q if e[0] is None else e[0])) for q, e in zip(y, ends, strict=True)]
        above = [max(0.0, (q if e[1] is None else e[1]) - q) for q, e in zip(y, ends, strict=True)]
        axes.errorbar(
            x, y, yerr=[below, above], color=colour, marker=marker, markersize=6, capsize=3,
            elinewidth=1, linewidth=1.4 if line else 0, label=label, zorder=4,
        )  # fmt: skip

    def draw_tuned(self, axes: Any, points: Sequence[Point]) -> None:
        """Triangles over what was fine-tuned, and an arrow from its quality as a plug-in."""
        tuned = [p for p in points if p.retrained]
        if not tuned:
            return
        before = [p for p in tuned if p.untuned is not None]
        label = "before fine-tuning (plug-in)" if before else None
        plugged = self.xy(before)[0], [p.untuned for p in before]
        for x, point in zip(plugged[0], before, strict=True):
            axes.annotate(
                "", xy=(x, point.quality), xytext=(x, point.untuned), zorder=4.5,
                arrowprops={"arrowstyle": "-|>", "color": TUNED, "linewidth": 1.1, "shrinkB": 5},
            )  # fmt: skip
        axes.scatter(
            *plugged, s=34, marker="^", facecolor="white", edgecolor=TUNED, linewidth=1.1,
            zorder=4.6, label=label,
        )  # fmt: skip
        axes.scatter(
            *self.xy(tuned), s=75, marker="^", color=TUNED, edgecolor="white", linewidth=0.8,
            zorder=5, label="fine-tuned",
        )  # fmt: skip

    def name(
        self,
        axes: Any,
        front: Sequence[Point],
        points: Sequence[Point],
        leading: Sequence[Point],
    ) -> None:
        """Write methods beside the front, best first, as many as find a place of their own."""
        from matplotlib.patheffects import withStroke

        sign = 1 if self.y.higher_is_better else -1
        by_worth = sorted(front, key=lambda p: (p.kind != "best", -sign * (p.value(self.y) or 0.0)))
        spread = by_worth[:: max(1, len(by_worth) // MAX_LABELS)]
        stroke = withStroke(linewidth=2.5, foreground="white")
        label_points(
            axes,
            [(_label(p), p.value(self.x) or 0.0, p.value(self.y) or 0.0) for p in spread],
            marks=list(zip(*self.xy(points), strict=True)),
            lines=[self.xy(leading)],
            style={"fontsize": 8.5, "color": INK, "zorder": 7, "path_effects": [stroke]},
        )


def _label(point: Point) -> str:
    """Its name, with structure, number format and exits where they are other than usual."""
    number_format = "" if point.number_format == "float32" else point.number_format
    more = (point.subnet.split(",")[0], number_format, "exits" if point.exits else "")
    return " ".join(filter(None, (point.name, *more)))


def _frame(
    axes: Any, plane: _Plane, points: Sequence[Point], limit: float | None, title: str
) -> None:
    axes.set_xlabel(plane.x.axis)
    axes.set_ylabel(plane.y.axis)
    if title:
        axes.set_title(title, fontsize=11, loc="left")
    costs = [*plane.xy(points)[0], *([] if limit is None else [limit])]
    if costs:
        margin = 0.05 * (max(costs) - min(costs) or max(costs) or 1.0)
        axes.set_xlim(max(0.0, min(costs) - margin), max(costs) + 2 * margin)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if points:  # the corner that is worst in both
        corner = "lower" if plane.y.higher_is_better else "upper"
        side = "left" if plane.x.higher_is_better else "right"
        axes.legend(loc=f"{corner} {side}", frameon=True, framealpha=0.9, fontsize=9)
