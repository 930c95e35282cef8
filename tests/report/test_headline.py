"""What a report says first."""

import dataclasses

from autotok.evaluation.paired import paired_hits
from autotok.metrics import metric_of
from autotok.report.headline import headline, slower_sentence
from autotok.report.points import Point
from autotok.report.sources import Sources

TOP1 = metric_of("top1")


def points(latency: float | None, before: float | None = 80.0) -> list[Point]:
    return [
        Point(
            "tome", 1.0, 87.0, figures={"latency_ms": latency, "peak_memory_mb": 90.0}, kind="best"
        ),
        Point(
            "none", 4.0, 88.0, figures={"latency_ms": before, "peak_memory_mb": 100.0},
            kind="uncompressed",
        ),
    ]  # fmt: skip


def test_a_best_that_takes_more_time_than_the_uncompressed_model_is_called_out() -> None:
    sentence = slower_sentence(points(200.0))
    assert "SLOWER THAN UNCOMPRESSED: the best is predicted at 200.00 ms" in sentence
    assert "2.50 times as long" in sentence
    measured = [dataclasses.replace(p, origin="measured") for p in points(200.0)]
    assert "the best is measured at" in slower_sentence(measured)


def test_a_faster_best_and_one_of_unknown_time_are_not() -> None:
    for latency, before in ((40.0, 80.0), (80.0, 80.0), (None, 80.0), (90.0, None)):
        assert slower_sentence(points(latency, before)) == ""
    assert slower_sentence([]) == ""


def test_the_headline_sets_five_figures_beside_the_uncompressed_ones() -> None:
    found = headline(points(40.0), TOP1, Sources(latency="predicted for nx, checked to 1.3 %"))
    assert [f.label for f in found] == [
        "top-1 accuracy", "cost", "latency", "predicted speed-up", "peak memory"
    ]  # fmt: skip
    assert [f.value for f in found] == [
        "87.0 %",
        "1.000 GFLOPs",
        "40.00 ms",
        "2.00 times",
        "90.0 MB",
    ]
    assert found[1].against == "uncompressed 4.000 (25 % of it)"
    assert "predicted for nx" in found[2].against
    assert not any(f.alarming for f in found)


def test_what_is_slower_alarms() -> None:
    alarming = [f.label for f in headline(points(200.0), TOP1, Sources()) if f.alarming]
    assert alarming == ["latency", "predicted speed-up"]


def test_without_a_target_there_is_neither_latency_nor_memory() -> None:
    bare = [dataclasses.replace(p, figures={}) for p in points(1.0)]
    assert [f.label for f in headline(bare, TOP1, Sources())] == ["top-1 accuracy", "cost"]
    assert headline([], TOP1, Sources()) == []


def timed(own: float, other: float, speedup: float | None, reading: str = "steady") -> list[Point]:
    best, base = (dataclasses.replace(p, origin="measured") for p in points(own, other))
    return [dataclasses.replace(best, speedup=speedup, reading=reading), base]


def test_a_measured_speed_up_is_the_one_timed_in_turns_not_of_two_readings() -> None:
    faster = timed(0.178, 0.174, 1.132, "noisy")
    assert slower_sentence(faster) == ""
    figures = {f.label: f for f in headline(faster, TOP1, Sources())}
    assert figures["measured speed-up"].value == "1.13 times"
    assert figures["measured speed-up"].against == "against uncompressed, timed in turns (noisy)"
    assert "%" not in figures["latency"].against
    assert figures["latency"].against.startswith("uncompressed 0.174, measured at another time")
    slower = slower_sentence(timed(0.174, 0.178, 0.8, "unreliable"))
    assert "with the uncompressed model (unreliable), the best takes 1.25 times as long" in slower


def test_a_reading_is_not_divided_by_a_prediction() -> None:
    best, base = points(200.0)
    read = [dataclasses.replace(best, origin="measured"), base]
    assert slower_sentence(read) == ""
    labels = [f.label for f in headline(read, TOP1, Sources())]
    assert labels == ["top-1 accuracy", "cost", "latency", "peak memory"]


def test_a_row_s_measured_speed_up_and_verdict_are_read() -> None:
    row = {"measured_speedup": "1.13", "measured_verdict": "noisy", "latency_is": "measured"}
    point = Point.from_row(row, TOP1)
    assert (point.speedup, point.reading, point.origin) == (1.13, "noisy", "measured")


def test_a_quality_on_other_images_is_no_share_of_the_uncompressed_model_s() -> None:
    best, base = points(40.0)
    apart = [best, dataclasses.replace(base, num_images=40)]
    assert headline(apart, TOP1, Sources())[0].against == "uncompressed 88.0"
    both = paired_hits("1" * 36 + "0" * 4, "1" * 30 + "0" * 10)
    apart[0] = dataclasses.replace(best, quality=90.0, num_images=40, against_reference=both)
    apart[1] = dataclasses.replace(base, num_images=100)
    assert headline(apart, TOP1, Sources())[0].against == (
        "uncompressed 88.0 (120 % of it over the same images)"
    )
