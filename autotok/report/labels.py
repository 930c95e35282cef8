"""Labels beside the points of a picture, none over another: the nearest free place, and a line."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

MARK = 8.0
"""Half the side of the square, in pixels, that a mark keeps free."""
RINGS = (11.0, 18.0, 27.0, 38.0, 52.0, 70.0)
"""Distances to try, in points."""
DIRECTIONS = 16
LINED = 14.0
"""Distance from which a line leads to the label."""
CROSSED, FAR = 3.0, 0.12
"""What a label over a line of the picture costs, and a point of distance."""


@dataclass(frozen=True)
class Box:
    """A rectangle of the picture, in pixels."""

    left: float
    bottom: float
    right: float
    top: float

    def meets(self, other: Box) -> bool:
        """Whether they overlap."""
        beside = self.right <= other.left or other.right <= self.left
        return not (beside or self.top <= other.bottom or other.top <= self.bottom)

    def within(self, other: Box) -> bool:
        """Whether it lies inside another."""
        across = other.left <= self.left and self.right <= other.right
        return across and other.bottom <= self.bottom and self.top <= other.top


def label_points(
    axes: Any,
    labels: Sequence[tuple[str, float, float]],
    *,
    marks: Sequence[tuple[float, float]],
    lines: Sequence[tuple[Sequence[float], Sequence[float]]] = (),
    style: dict[str, Any],
) -> list[Box]:
    """Boxes of the labels written; one without a free place is left out.

    Args:
        axes: matplotlib's, with everything else already in it.
        labels: (text, x, y); the first has the first choice.
        marks: Points that no label may cover.
        lines: (x, y) of lines that a label had better not cross.
        style: Of the text.
    """
    figure = axes.figure
    figure.draw_without_rendering()  # or nobody knows where things are
    renderer = figure.canvas.get_renderer()
    taken = [_around(axes, x, y) for x, y in marks]
    taken += [_box(artist.get_window_extent(renderer)) for artist in _written(axes)]
    crossed = [_around(axes, x, y, side=2.0) for line in lines for x, y in _along(*line)]
    inside, found = _box(axes.get_window_extent(renderer)), []
    for text, x, y in labels:
        label = axes.annotate(text, (x, y), xytext=(0, 0), textcoords="offset points", **style)
        label.set_in_layout(False)
        extent = label.get_window_extent(renderer)
        place = _free(axes, (x, y), (extent.width, extent.height), inside, taken, crossed)
        if place is None:
            label.remove()
            continue
        (dx, dy), box = place
        label.set_position((dx, dy))
        label.set_horizontalalignment("left" if dx >= 0 else "right")
        label.set_verticalalignment("center")
        if math.hypot(dx, dy) > LINED:
            line = {"arrowstyle": "-", "color": "#888888", "linewidth": 0.6, "shrinkB": 3}
            lead = axes.annotate(
                "", (x, y), xytext=(dx, dy), textcoords="offset points", arrowprops=line
            )
            lead.set_in_layout(False)
        taken.append(box)
        found.append(box)
    return found


def _free(
    axes: Any,
    point: tuple[float, float],
    size: tuple[float, float],
    inside: Box,
    taken: Sequence[Box],
    crossed: Sequence[Box],
) -> tuple[tuple[float, float], Box] | None:
    """The best offset, in points, and the box there; None where every place is taken."""
    cx, cy = axes.transData.transform(point)
    scale = axes.figure.dpi / 72.0
    best, least = None, math.inf
    for dx, dy, distance in _offsets():
        left = cx + dx * scale - (0.0 if dx >= 0 else size[0])
        bottom = cy + dy * scale - size[1] / 2
        box = Box(left, bottom, left + size[0], bottom + size[1])
        if not box.within(inside) or any(box.meets(other) for other in taken):
            continue
        worth = FAR * distance + CROSSED * any(box.meets(other) for other in crossed)
        if worth < least:
            best, least = ((dx, dy), box), worth
    return best


def _offsets() -> Iterator[tuple[float, float, float]]:
    """Offsets (dx, dy) and their distance, the nearest first, to the lower right first."""
    for far in RINGS:
        for step in range(DIRECTIONS):
            angle = -math.pi / 4 + 2 * math.pi * step / DIRECTIONS
            yield far * math.cos(angle), far * math.sin(angle), far


def _around(axes: Any, x: float, y: float, *, side: float = MARK) -> Box:
    cx, cy = axes.transData.transform((x, y))
    return Box(cx - side, cy - side, cx + side, cy + side)


def _along(x: Sequence[float], y: Sequence[float]) -> Iterator[tuple[float, float]]:
    """Points on a line, many to a stretch."""
    for i in range(len(x) - 1):
        for step in range(24):
            share = step / 24
            yield x[i] + share * (x[i + 1] - x[i]), y[i] + share * (y[i + 1] - y[i])


def _written(axes: Any) -> list[Any]:
    """What is written in the axes already."""
    legend = axes.get_legend()
    return [*(t for t in axes.texts if t.get_text()), *([] if legend is None else [legend])]


def _box(extent: Any) -> Box:
    return Box(extent.x0, extent.y0, extent.x1, extent.y1)
