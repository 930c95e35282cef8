"""Two runs set beside each other, over metrics that both know."""

from pathlib import Path
from typing import Any

import pytest

from autotok.errors import ConfigError
from autotok.metrics import METRICS, Metric, metric_of
from autotok.report.points import Point
from autotok.report.run import Run
from autotok.report.run_reports import compare_runs


class Told(Run):
    """A finished run without a folder."""

    def __init__(self, name: str, seed: int, asked: str, *points: Point) -> None:
        self.directory = Path(name)
        self.config = {"run_id": name, "search": {"seed": seed}}
        self._asked, self._points = asked, points

    @property
    def asked(self) -> tuple[Metric, ...]:
        return tuple(map(metric_of, self._asked.split()))

    @property
    def judged(self) -> Metric:
        return next((m for m in self.asked if m.kind == "judged"), METRICS["top1"])

    def points(self) -> list[Point]:
        return list(self._points)


def point(quality: float, macs_g: float, *, kind: str = "front", **figures: float) -> Point:
    return Point("tome", macs_g, quality=quality, figures=figures, kind=kind)


def test_hypervolumes_end_at_one_point_and_settings_that_differ_are_named() -> None:
    # worst of both: 70 %, 2 G; a tenth of the spread (10, 1) further: 69 %, 2.1 G
    found = compare_runs(
        Told("a", 0, "top1 macs", point(80.0, 1.0)),
        Told("b", 1, "top1 macs", point(70.0, 2.0)),
    )
    assert found["metrics"] == ["macs_g", "top1_pct"]
    assert [run["hypervolume"] for run in found["runs"]] == [12.1, 0.1]
    assert found["differ"] == {"search.seed": [0, 1]}


FAST = point(60.0, 1.0, latency_ms=3.0)
LUCKY = point(99.0, 1.0, latency_ms=1.0, kind="trial")


def beside_another(asked: str, x: str | None = None) -> dict[str, Any]:
    """A run with a lucky trial on few images, and one that was asked for other metrics."""
    other = Told("b", 0, asked, point(70.0, 2.0, latency_ms=5.0))
    return compare_runs(Told("a", 0, "top1 macs latency", FAST, LUCKY), other, x=x)


def test_axes_are_what_both_were_asked_for_and_trials_on_few_images_stay_out() -> None:
    found = beside_another("latency top1")
    assert found["metrics"] == ["latency_ms", "top1_pct"]
    assert [len(run["front"]) for run in found["runs"]] == [1, 1]
    named = beside_another("latency top1", x="latency")
    assert named["runs"][0]["front"][0]["top1_pct"] == 60.0
    assert not named["trials_included"]


def test_over_axes_that_are_not_both_runs_own_trials_count_and_that_is_said() -> None:
    named = beside_another("macs top1", x="latency")
    assert named["runs"][0]["front"][0]["top1_pct"] == 99.0
    assert named["trials_included"]


def test_one_metric_in_common_is_not_filled_up_with_one_that_a_run_was_not_asked_for() -> None:
    a = Told("a", 0, "top1 latency", point(80.0, 1.0, latency_ms=3.0))
    b = Told("b", 0, "top1 macs", point(70.0, 2.0))
    with pytest.raises(ConfigError, match=r"two metrics in common.*--x macs --y quality"):
        compare_runs(a, b)
    alone = [Told(n, 0, "top1", point(80.0, 1.0)) for n in "ab"]  # macs beside it in both pictures
    assert compare_runs(*alone)["metrics"] == ["macs_g", "top1_pct"]


def test_runs_without_metrics_in_common_are_told_what_to_give() -> None:
    a, b = (Told(n, 0, f"{n} macs", point(50.0, 1.0, params_m=2.0)) for n in ("top1", "kl"))
    with pytest.raises(ConfigError, match=r"'top1' top1, macs; 'kl' kl, macs.*--x macs --y params"):
        compare_runs(a, b)
    with pytest.raises(ConfigError, match="were judged by top1 and kl"):
        compare_runs(a, b, x="macs")
    assert compare_runs(a, b, x="macs", y="params")["metrics"] == ["macs_g", "params_m"]


def test_a_run_that_found_nothing_has_no_volume() -> None:
    found = compare_runs(Told("a", 0, "top1 macs", point(80.0, 1.0)), Told("b", 0, "top1 macs"))
    assert found["runs"][1]["hypervolume"] == 0.0
    assert found["runs"][1]["front"] == []
