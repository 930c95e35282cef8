"""The closing table."""

import io

from rich.console import Console

from autotok.report.points import Point, metric_of
from autotok.report.tables import closing_table, plain_table

POINTS = [
    Point(
        "tome", 2.25, 90.0, 86.0, 93.0, 256, (3, 6), (420, 210), kind="front", within_budget=True
    ),
    Point("topk", 2.2, 92.0, 88.0, 95.0, 256, (3,), (200,), kind="best", latency_ms=12.345),
    Point("none", 4.8, 94.0, 91.0, 96.0, 256, kind="uncompressed", feasible=False),
    Point("random", 2.2, 55.0, 50.0, 60.0, 256, (2,), (220,), kind="random control"),
]
TOP1 = metric_of("top1")


def test_the_uncompressed_model_comes_first_and_then_the_costliest() -> None:
    _, rows = plain_table(POINTS, TOP1)
    assert [row[1] for row in rows] == ["none", "tome", "topk", "random"]


def test_headings_name_units_and_where_latency_came_from() -> None:
    heads, rows = plain_table(POINTS, TOP1, latency_source="predicted for jetson-nx")
    assert "GFLOPs (1e9 MACs)" in heads
    assert "latency ms (predicted for jetson-nx)" in heads
    assert not any(head.startswith("peak memory") for head in heads)
    best = dict(zip(heads, rows[2], strict=True))
    assert best["latency ms (predicted for jetson-nx)"] == "12.35"
    assert best["top-1 accuracy (95 % interval)"] == "92.0 [88.0, 95.0] %"
    assert best["of uncompressed"] == "97.9 %"
    assert best["feasible"] == "yes"
    assert [row[-1] for row in rows] == ["over budget", "yes, counted", "yes", "yes"]


def test_a_share_of_a_divergence_is_not_shown() -> None:
    points = [Point("none", 4.8, 0.0, kind="uncompressed"), Point("topk", 2.2, 0.1)]
    heads, _ = plain_table(points, metric_of("kl"))
    assert "of uncompressed" not in heads
    assert any("less is better" in head for head in heads)


def test_the_table_is_drawn_with_names_that_look_like_markup() -> None:
    console = Console(file=io.StringIO(), width=200)
    console.print(closing_table([Point("[red]method", 1.0, 50.0)], TOP1))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "[red]method" in text
    assert "1.000" in text


def test_an_empty_table_has_no_rows() -> None:
    assert plain_table([], TOP1)[1] == []
