"""Target files written from a calibration: they load back equal and predict what was fitted."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import yaml

import autotok.methods  # noqa: F401
from autotok.backbones.loading import load_structure
from autotok.compression.compress import compress_backbone
from autotok.errors import ConfigError, UnknownName
from autotok.predicting import fitting
from autotok.predicting.calibrate import (
    CalibrationFound,
    CalibrationPlan,
    draw_candidates,
)
from autotok.predicting.calibration_run import Measured
from autotok.predicting.fitting import FIXED, NAMES, FitCheck
from autotok.predicting.measurers import Machine, this_machine
from autotok.predicting.memory_fit import MemoryFit
from autotok.predicting.predict import predict, predict_trace, provenance
from autotok.predicting.target import Target, load_target
from autotok.predicting.target_file import calibrated_target, save_target, target_dict
from autotok.predicting.trace import trace
from autotok.report.catalog import describe_target

PLAN = CalibrationPlan(backbones=("tiny",), measurements=10)
TERMS = np.array([500.0 if name == FIXED else 2e-3 for name in NAMES])


@pytest.fixture(scope="module")
def found() -> CalibrationFound:
    rows = [Measured(c, float(c.amounts @ TERMS) / 1e3, 0.0) for c in draw_candidates(PLAN, 6)]
    return CalibrationFound(
        terms_us=TERMS,
        check=FitCheck(3, 66.7, 100.0, 0.99, 7.3),
        fitted=tuple(rows[:3]),
        held_out=tuple(rows[3:]),
        memory=MemoryFit(base_mb=301.23, overhead=1.2, points=7, worst_pct=4.4),
        plan=PLAN,
        machine=this_machine(),
        seconds=100.0,
    )


BOARD = Machine(
    name="NVIDIA Jetson Xavier NX", account="NVIDIA Jetson Xavier NX, 6 cores, 7.8 GB, Python 3.8",
    runtime="trtexec float16", threads=1, clock="wall", dtype="float16", memory_mb=7765.4,
    memory_source="measured: what the device's operating system reports",
)  # fmt: skip


@pytest.fixture
def written(found: CalibrationFound, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("autotok.predicting.target_file.now", lambda: "2026-01-01T00:00:00+00:00")
    path = tmp_path / "desk.yaml"
    save_target(calibrated_target(found, name="desk"), path)
    return path


def test_a_written_file_loads_back_equal(found: CalibrationFound, written: Path) -> None:
    assert target_dict(load_target(written)) == target_dict(calibrated_target(found, name="desk"))
    for item in dataclasses.fields(Target):
        own = getattr(calibrated_target(found, name="desk"), item.name)
        if item.name not in ("calibration", "settings", "checked_against"):
            assert getattr(load_target(written), item.name) == own, item.name


def test_it_predicts_what_the_terms_say(found: CalibrationFound, written: Path) -> None:
    target = load_target(written)
    for row in (*found.fitted, *found.held_out):
        model = compress_backbone(load_structure("tiny"), row.candidate.config)
        assert predict_trace(trace(model), target).latency_ms == pytest.approx(
            row.latency_ms, rel=1e-3
        )


def test_memory_is_weights_base_and_live_tensors(written: Path) -> None:
    traced = trace(load_structure("tiny"))
    expected = 301.2 + (traced.weight_bytes + 1.2 * traced.peak_live_bytes) / 1e6
    assert predict_trace(traced, load_target(written)).peak_memory_mb == pytest.approx(expected)


def test_predictions_state_the_error_of_those_kept_aside(written: Path) -> None:
    target = load_target(written)
    found = predict_trace(trace(load_structure("tiny")), target)
    assert (found.error_pct, found.memory_error_pct) == (7.3, 4.4)
    assert "100 % of 3 unseen configurations within 10 %, worst 7.3 %" in provenance(target)
    assert "memory errors up to 4.4 %" in found.source


def test_nothing_is_claimed_of_another_batch_than_the_calibration_s(written: Path) -> None:
    target = load_target(written)
    found = predict(load_structure("tiny"), target, batch=3)
    assert (found.error_pct, found.memory_error_pct) == (None, None)
    assert found.source.endswith("calibrated 2026-01-01 (at batch 1), never checked at batch 3)")
    assert provenance(target, batch=3) in found.source


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_another_number_format_than_the_calibration_s_is_refused(written: Path, dtype: str) -> None:
    target = load_target(written)
    with pytest.raises(UnknownName, match=f"dtype of target 'desk' '{dtype}' is unknown"):
        predict(load_structure("tiny"), target, dtype=dtype)
    peaks = {**target.peak_gmacs, dtype: target.peak_gmacs["float32"]}
    target = dataclasses.replace(target, peak_gmacs=peaks)
    with pytest.raises(ConfigError, match=f"calibrated in float32 and says nothing of {dtype}"):
        predict(load_structure("tiny"), target, dtype=dtype)


@pytest.mark.parametrize("count", [2, 3])
def test_a_file_of_few_or_equal_ones_kept_aside_loads_back(
    found: CalibrationFound, tmp_path: Path, count: int
) -> None:
    check = fitting.check(np.full(count, 2.0), np.arange(1.0, count + 1))
    path = tmp_path / "few.yaml"
    save_target(calibrated_target(dataclasses.replace(found, check=check), name="few"), path)
    record = load_target(path).calibration
    assert record is not None
    assert record.rank_correlation is None
    assert record.held_out == count


def test_the_points_are_those_kept_aside(found: CalibrationFound, written: Path) -> None:
    points = load_target(written).checked_against
    assert [p.value for p in points] == [round(r.latency_ms, 3) for r in found.held_out]
    assert {p.role for p in points} == {"held out"}


def test_it_is_shown_with_the_calibration_s_own_figures_and_notes(written: Path) -> None:
    shown = describe_target(str(written))
    assert {point["role"] for point in shown["points"]} == {"kept aside, then fitted"}
    assert shown["summary"] == (
        "3 points kept aside, then fitted; before that, 66.7 % of 3 were within 5 %, 100 % within"
        " 10 %, the worst off by 7.3 %, rank correlation 0.99, at batch 1; memory errors up to"
        " 4.4 %"
    )
    assert shown["calibration"]["worst_pct"] == 7.3
    assert shown["notes"] == list(load_target(written).notes) != []
    assert describe_target("local")["calibration"] is None


def test_a_board_s_file_says_what_the_board_says_of_itself(
    found: CalibrationFound, tmp_path: Path
) -> None:
    there = dataclasses.replace(
        found,
        machine=BOARD,
        plan=dataclasses.replace(PLAN, dtype="float16", fused_attention=False),
    )
    path, base = tmp_path / "nx.yaml", load_target("jetson-nx")
    save_target(calibrated_target(there, name="nx", base=base), path)
    target = load_target(path)
    assert target.title == "NVIDIA Jetson Xavier NX, trtexec float16, 1 threads"
    assert target.memory_mb.value == 7765
    assert (target.kind, target.peak_gmacs) == (base.kind, base.peak_gmacs)
    assert (target.default_dtype, target.checked_against[0].dtype) == ("float16", "float16")
    how, record = target.setting(), target.calibration
    assert not how.fused_attention
    assert not how.asynchronous
    assert record is not None
    assert (record.machine, record.runtime, record.threads) == (BOARD.account, BOARD.runtime, 1)
    assert any("Peaks and bandwidth are those of target 'jetson-nx'" in n for n in target.notes)
    assert sum(n.startswith("Of that target: ") for n in target.notes) == len(base.notes)


def test_a_graphics_card_s_memory_is_not_the_machine_s(found: CalibrationFound) -> None:
    there = dataclasses.replace(found, machine=BOARD)
    base = load_target("rtx3090")
    assert calibrated_target(there, name="x", base=base).memory_mb == base.memory_mb


def test_a_second_calibration_is_seen_at_once(found: CalibrationFound, written: Path) -> None:
    assert load_target(written).setting().fixed_ms.value == 0.5
    slower = dataclasses.replace(found, terms_us=2 * found.terms_us)
    save_target(calibrated_target(slower, name="desk"), written)
    assert load_target(written).setting().fixed_ms.value == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"linear.mac": 1.0}, "regressor 'linear.mac' is unknown; did you mean 'linear.macs'"),
        ({"linear.macs": -1.0}, "regressor 'linear.macs' must not be negative"),
        ({"linear.macs": "fast"}, "microseconds.linear.macs: must be a number, got 'fast'"),
        ({"linear.macs": float("nan")}, "microseconds.linear.macs: must be a finite number"),
    ],
)
def test_terms_that_cannot_be_are_refused(
    written: Path, change: dict[str, object], message: str
) -> None:
    data = yaml.safe_load(written.read_text())
    data["settings"]["eager"]["terms"]["microseconds"] |= change
    written.write_text(yaml.safe_dump(data))
    with pytest.raises(ConfigError, match=message):
        load_target(written)


def test_a_calibration_with_a_key_too_many_or_too_few_is_refused(written: Path) -> None:
    data = yaml.safe_load(written.read_text())
    for change, message in (
        ({**data["calibration"], "mood": "good"}, "calibration: key 'mood' is unknown"),
        ({"when": "today"}, "calibration: lacks the key 'machine'"),
    ):
        written.write_text(yaml.safe_dump({**data, "calibration": change}))
        with pytest.raises(ConfigError, match=message):
            load_target(written)
