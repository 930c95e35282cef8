"""Rows of a run's tables become points."""

import io
import math

import pandas as pd
import pytest
from evidence import final

from autotok.metrics import TABLE, metric_of
from autotok.report.points import Point, points_of
from autotok.searching.records.comparison import Comparisons

ROW = {
    "number": 7, "method": "tome", "layers": "3 6", "counts": "420 210", "macs_g": 2.25,
    "top1_pct": 91.5, "top1_pct_low": 88.0, "top1_pct_high": 94.0, "num_images": 512,
    "feasible": True, "within_budget": True, "mode": "plug-in", "finetuned": False,
}  # fmt: skip


def test_a_row_becomes_a_point() -> None:
    point = Point.from_row(ROW, metric_of("top1"), kind="best")
    assert (point.method, point.macs_g, point.quality) == ("tome", 2.25, 91.5)
    assert (point.low, point.high, point.num_images) == (88.0, 94.0, 512)
    assert point.schedule == "3:420 6:210"
    assert point.kind == "best"
    assert point.value(metric_of("latency")) is None


def test_a_row_that_went_through_csv_is_the_same_point() -> None:
    single = {**ROW, "layers": "3", "counts": "420", "latency_ms": None}
    text = pd.DataFrame([single]).to_csv(index=False)
    back = pd.read_csv(io.StringIO(text)).iloc[0].to_dict()
    metric = metric_of("top1")
    assert Point.from_row(back, metric) == Point.from_row(single, metric)


def test_a_blank_of_a_table_of_many_formats_is_no_format() -> None:
    rows = [ROW, {**ROW, "number_format": "int8", "subnet": "d", "exits": "e", "backbone": "b"}]
    back = pd.read_csv(io.StringIO(pd.DataFrame(rows).to_csv(index=False)))
    plain, lower = (Point.from_row(back.iloc[i].to_dict(), metric_of("top1")) for i in (0, 1))
    assert plain == Point.from_row(ROW, metric_of("top1"))
    assert (plain.details, lower.details) == ("", "d, int8, exits e")


def test_a_point_knows_whether_its_figures_were_measured() -> None:
    metric = metric_of("top1")
    for words, origin in (
        ("measured", "measured"),
        ("predicted, checked to 4.0 %", "predicted"),
        (math.nan, "predicted"),
    ):
        assert Point.from_row({**ROW, "latency_is": words}, metric).origin == origin


def test_blanks_are_none_and_not_numbers() -> None:
    point = Point.from_row(
        {"method": "none", "macs_g": 4.6, "top1_pct": math.nan}, metric_of("top1")
    )
    assert point.quality is None
    assert point.feasible
    assert point.schedule == "-"


@pytest.mark.parametrize(
    ("name", "value", "text"), [("top1", 91.25, "91.2 %"), ("kl", 0.5, "0.5000"), ("kl", None, "-")]
)
def test_a_metric_writes_its_values_with_their_unit(
    name: str, value: float | None, text: str
) -> None:
    assert metric_of(name).text(value) == text


def test_a_retrained_row_knows_its_mode_and_its_quality_as_a_plug_in() -> None:
    point = Point.from_row({**ROW, "mode": "retrain", "plugged": 80.0}, metric_of("top1"))
    assert (point.mode_text, point.untuned) == ("fine-tuned", 80.0)
    assert Point.from_row(ROW, metric_of("top1")).mode_text == "plug-in"
    assert Point("none", 4.8, kind="uncompressed").mode_text == "-"


def test_a_point_knows_its_value_of_every_metric_of_the_table() -> None:
    figures = {m.column: float(i) for i, m in enumerate(TABLE, 1)}
    point = Point.from_row({"method": "topk", **figures}, metric_of("top1"))
    others = [m for m in TABLE if m.kind != "judged"]
    assert [point.value(m) for m in others] == [figures[m.column] for m in others]
    assert point.value(metric_of("top1")) == figures["top1_pct"]


def test_a_configuration_of_the_final_evaluation_stands_once() -> None:
    points = points_of({**vars(final()), "comparisons": Comparisons()})
    numbers = [p.number for p in points]
    assert len(numbers) == len(set(numbers))
    assert {p.kind for p in points} == {"best", "front", "uncompressed", "random control"}
