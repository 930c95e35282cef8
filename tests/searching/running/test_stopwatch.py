"""What a time limit keeps for export and report, by arithmetic; no clock runs here."""

from pathlib import Path

import pytest

from autotok.searching.running.stopwatch import Stopwatch


def watch(*, export_cpu_s: float, stretch: float = 1.0) -> Stopwatch:
    """One whose export is expected to take so long on a machine that busy."""
    return Stopwatch(100.0, export_cpu_s, lambda: stretch)


@pytest.mark.parametrize(
    ("limit", "export", "stretch", "kept"),
    [
        (100.0, 20.0, 1.0, 20.0 + 4.0),
        (100.0, 20.0, 2.0, 40.0 + 8.0),
        (100.0, 20.0, 3.0, 12.0),  # 60 s of 100: not waited for, the report is
        (None, 20.0, 1.0, 4.0),
    ],
)
def test_export_and_report_are_set_aside_as_far_as_the_limit_allows(
    limit: float | None, export: float, stretch: float, kept: float
) -> None:
    around = watch(export_cpu_s=export, stretch=stretch).around(limit)
    assert around.begin == 100.0
    assert around.handover_s == pytest.approx(kept)


def test_an_export_runs_where_it_ends_within_ten_seconds_of_the_limit() -> None:
    asked = watch(export_cpu_s=20.0)
    assert asked.why_no_export(60.0, 45.0, Path("a b")) == ""
    assert asked.why_no_export(None, 1e6, Path("a b")) == ""
    why = asked.why_no_export(60.0, 50.0, Path("a b"))
    assert "left 10 s for what takes about 20 s" in why
    assert why.endswith("use `autotok export 'a b/best.yaml' -o 'a b/model.onnx'`")


def test_a_machine_that_became_busy_since_is_asked_again() -> None:
    moments = iter([1.0, 4.0])
    asked = Stopwatch(0.0, 20.0, lambda: next(moments))
    assert asked.around(100.0).handover_s == pytest.approx(24.0)
    assert "about 80 s" in asked.why_no_export(100.0, 75.0, Path("a b"))
