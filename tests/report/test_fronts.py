"""Fronts and volumes over any metrics, worked out by hand."""

import pytest

from autotok.errors import RunDirectoryError
from autotok.metrics import Metric, metric_of
from autotok.report.fronts import axes_of, front_over, own_axes, volumes_by_trial
from autotok.report.points import Point


def metrics(*names: str) -> list[Metric]:
    return [metric_of(name) for name in names]


def point(
    number: int,
    top1: float,
    latency: float,
    macs: float,
    *,
    kind: str = "trial",
    over: bool = False,
) -> Point:
    return Point(
        "topk", macs, top1, number=number, kind=kind, over=over,
        figures={"latency_ms": latency, "throughput_img_s": 1000.0 / latency},
    )  # fmt: skip


POINTS = [
    point(1, 80.0, 4.0, 2.0, kind="best"),
    point(2, 60.0, 2.0, 3.0, kind="front"),
    point(3, 60.0, 3.0, 1.0),  # dominated in time, not in cost
    point(4, 99.0, 1.0, 0.1, over=True),  # outside a budget: nobody may have it
    point(5, 99.0, 1.0, 0.1, kind="random control"),
    point(6, 90.0, 5.0, 4.0, kind="uncompressed"),
]


def numbers(*names: str) -> list[int | None]:
    return [p.number for p in front_over(POINTS, metrics(*names)).points]


def test_the_front_is_what_nothing_dominates_in_the_metrics_asked_for() -> None:
    assert numbers("latency", "top1") == [2, 1]
    assert numbers("macs", "top1") == [3, 1]
    assert numbers("throughput", "macs") == [2, 3]  # 3 is cheaper and faster than 1
    assert numbers("top1", "latency", "macs") == [1, 2, 3]
    assert numbers("latency") == [2]


def test_the_volume_counts_up_to_the_uncompressed_models_figures() -> None:
    found = front_over(POINTS, metrics("latency", "top1"))
    assert found.reference == (5.0, 0.0)
    assert found.volume == pytest.approx((5 - 4) * 80 + (4 - 2) * 60)
    assert found.sentence == (
        "hypervolume of the front over latency and top-1 accuracy, trials on few images"
        " included: 200, up to 5.00 ms, 0.0 %"
    )
    rate = front_over(POINTS, metrics("throughput", "top1"))
    assert rate.reference == (200.0, 0.0)
    assert rate.volume == pytest.approx((500 - 200) * 60 + (250 - 200) * (80 - 60))


def test_three_metrics_have_a_volume_too() -> None:
    found = front_over(POINTS[:1] + POINTS[5:], metrics("latency", "macs", "top1"))
    assert found.volume == pytest.approx((5 - 4) * (4 - 2) * 80)


def test_without_the_uncompressed_model_the_worst_seen_is_the_end() -> None:
    found = front_over(POINTS[:3], metrics("latency", "macs"))
    assert found.reference == (4.0, 3.0)
    assert found.volume == pytest.approx((4 - 3) * (3 - 1))


def test_a_metric_that_the_run_does_not_know_is_named() -> None:
    with pytest.raises(RunDirectoryError, match=r"knows no energy .* --objective energy"):
        front_over(POINTS, metrics("energy", "top1"))


@pytest.mark.parametrize(
    ("asked", "axes"),
    [
        (("top1", "macs"), ("macs", "top1")),
        (("latency", "top1", "macs"), ("latency_ms", "top1")),
        (("throughput", "memory"), ("peak_memory_mb", "throughput_img_s")),
        (("top1",), ("macs", "top1")),
    ],
)
def test_a_picture_has_quality_upwards_and_the_first_other_objective_across(
    asked: tuple[str, ...], axes: tuple[str, str]
) -> None:
    assert tuple(m.name for m in axes_of(metrics(*asked))) == axes


def test_the_volume_grows_trial_by_trial_to_that_of_the_whole() -> None:
    both = metrics("macs", "top1")
    points = [
        Point("none", 4.0, 90.0, kind="uncompressed"),
        Point("tome", 2.0, 80.0, number=1, kind="front"),
        Point("topk", 3.0, 70.0, number=2),
        Point("evit", 1.0, 60.0, number=3, kind="best"),
        Point("ltp", 0.5, 60.0, number=0, feasible=False),
    ]
    found = volumes_by_trial(points, both)
    assert found == [2.0 * 80.0, 2.0 * 80.0, 2.0 * 80.0 + 60.0]
    assert found[-1] == front_over(points, both).volume


def test_over_the_run_s_own_axes_only_what_the_final_evaluation_judged_counts() -> None:
    asked = metrics("top1", "macs")
    found = front_over(POINTS, asked, own=own_axes(asked))
    assert [p.number for p in found.points] == [1]
    assert not found.with_trials
    assert "few images" not in found.sentence
    more = front_over(POINTS, metrics("top1", "latency"), own=own_axes(asked))
    assert more.with_trials
    assert "and latency, trials on few images included: " in more.sentence
    assert "few images" not in front_over(POINTS, metrics("macs", "latency")).sentence
    assert own_axes(metrics("top1")) == tuple(metrics("top1", "macs"))
