"""Labels of a picture: none over another, over a mark or outside."""

from typing import Any

import numpy as np
import pytest

from autotok.report.labels import MARK, Box, label_points


def plot(x: list[float], y: list[float]) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(x, y, "o-", label="front")
    axes.legend(loc="lower right")
    return axes


@pytest.mark.parametrize("spread", [0.02, 1.0])
def test_no_label_meets_another_or_a_mark(spread: float) -> None:
    rng = np.random.default_rng(0)
    x = sorted((1 + spread * rng.random(7)).tolist())
    y = sorted((80 + spread * rng.random(7)).tolist())
    x, y = [0.0, *x], [10.0, *y]  # what lies close together in the picture
    axes = plot(x, y)
    labels = [(f"kmedoids {i}", a, b) for i, (a, b) in enumerate(zip(x, y, strict=True))]
    found = label_points(
        axes, labels, marks=list(zip(x, y, strict=True)), lines=[(x, y)], style={"fontsize": 8.5}
    )
    assert len(found) == len(labels)
    for i, one in enumerate(found):
        assert not any(one.meets(other) for other in found[:i])
    at = axes.transData.transform(list(zip(x, y, strict=True)))
    marks = [Box(a - MARK, b - MARK, a + MARK, b + MARK) for a, b in at]
    assert not any(one.meets(mark) for one in found for mark in marks)


def test_a_label_without_a_free_place_is_left_out() -> None:
    axes = plot([0.0, 1.0], [0.0, 1.0])
    wide = "x" * 200
    assert label_points(axes, [(wide, 0.5, 0.5)], marks=[], style={}) == []
    assert not [t for t in axes.texts if t.get_text() == wide]


def test_what_was_written_is_where_the_box_says() -> None:
    axes = plot([0.0, 1.0], [0.0, 1.0])
    (box,) = label_points(axes, [("here", 0.5, 0.2)], marks=[(0.5, 0.2)], style={"fontsize": 9})
    figure = axes.figure
    figure.draw_without_rendering()
    (text,) = (t for t in axes.texts if t.get_text() == "here")
    extent = text.get_window_extent(figure.canvas.get_renderer())
    assert abs(extent.x0 - box.left) < 2
    assert abs(extent.y0 - box.bottom) < 3
