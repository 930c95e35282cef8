"""Calibration on the tiny backbone, and with made-up measurements whose answer is known."""

import dataclasses
import logging
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import autotok
import autotok.methods
from autotok.backbones.base import Backbone
from autotok.backbones.loading import load_structure
from autotok.compression.model import CompressedViT
from autotok.config import CompressionConfig
from autotok.devices.measurement import Measurement, MeasurementFailed
from autotok.errors import AutotokError, ConfigError, DeviceUnreachable
from autotok.predicting import calibrate as module
from autotok.predicting.calibrate import (
    CalibrationFound,
    CalibrationPlan,
    calibrate_target,
    draw_candidates,
)
from autotok.predicting.calibration_run import CalibrationRun
from autotok.predicting.fitting import NAMES, row_of
from autotok.predicting.latency_model import features_of
from autotok.predicting.measurers import (
    DeviceMeasurer,
    InterleavedMeasurer,
    Machine,
    Sample,
    this_machine,
)
from autotok.predicting.memory_fit import MB
from autotok.predicting.trace import Trace, trace

TINY = CalibrationPlan(backbones=("tiny",), measurements=15, seconds=1.0, memory=False)
METHODS = ["evit", "ltp", "random", "tofu", "tome", "topk"]
TERMS = np.array([8.0 if name.endswith("calls") else 1e-4 for name in NAMES])


@cache  # a reference is asked for again with every model
def traced(model: nn.Module) -> Trace:
    assert isinstance(model, (Backbone, CompressedViT))
    return trace(model)


def made_up_ms(model: nn.Module) -> float:
    """Of a machine that takes 8 us for each call, and little for what it does."""
    seen = traced(model)
    return float(row_of(features_of(seen.operators, pooled=seen.pooled)) @ TERMS) / 1e3


class MadeUp:
    """That machine."""

    tells_memory = False

    def machine(self) -> Machine:
        return this_machine()

    def measure(
        self, model: nn.Module, images: Tensor, reference: nn.Module, *, seconds: float
    ) -> Sample:
        usual = made_up_ms(reference)
        return Sample(made_up_ms(model) / usual, 0.0, usual)


@pytest.fixture(autouse=True)
def few_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "drawable_methods", lambda facts: METHODS)
    monkeypatch.setattr(module, "CANDIDATES", 3)


@pytest.fixture(scope="module")
def found() -> CalibrationFound:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "drawable_methods", lambda facts: METHODS)
        patch.setattr(module, "CANDIDATES", 2)
        plan = CalibrationPlan(("tiny",), measurements=20, memory=False)
        return calibrate_target(plan, measurer=MadeUp())


def test_a_machine_that_follows_the_terms_is_predicted_well(found: CalibrationFound) -> None:
    assert (len(found.fitted), len(found.held_out)) == (16, 4)
    assert found.check.count == 4
    assert found.check.within_10_pct == 100.0
    assert (found.terms_us >= 0).all()


def test_what_judges_was_not_fitted(found: CalibrationFound) -> None:
    fitted = {row.candidate.config for row in found.fitted}
    assert CompressionConfig() in fitted
    assert not fitted & {row.candidate.config for row in found.held_out}


def test_progress_rises_and_says_what_is_measured() -> None:
    heard: list[tuple[float, str]] = []
    result = calibrate_target(TINY, on_step=lambda share, text: heard.append((share, text)))
    shares = [share for share, _ in heard]
    assert shares == sorted(shares)
    assert heard[-1][1].startswith("measuring tiny")
    assert all(row.latency_ms > 0 for row in (*result.fitted, *result.held_out))
    assert result.held_out
    assert result.machine.threads == torch.get_num_threads()
    assert result.memory is None


def test_candidates_begin_uncompressed_and_hold_every_method_in_turn() -> None:
    drawn = draw_candidates(TINY, 13)
    methods = [candidate.config.method for candidate in drawn]
    assert methods[0] == "none"
    assert sorted(methods[1:7]) == sorted(methods[7:]) == METHODS
    assert [c.config for c in draw_candidates(TINY, 13)] == [c.config for c in drawn]


def test_where_time_is_short_fewer_are_drawn() -> None:
    assert len(draw_candidates(TINY, 40, least=7, until=0.0)) == 7


def test_a_measurement_is_the_ratio_times_the_usual_reference() -> None:
    run = CalibrationRun(InterleavedMeasurer(), TINY.backbones, batch=1)
    run.run(draw_candidates(TINY, 3), seconds=0.0)
    rows = run.rows()
    assert rows[0].candidate.config == CompressionConfig()
    assert [row.candidate.backbone for row in rows] == ["tiny"] * 3
    assert all(row.spread >= 0 for row in rows)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"measurements": 9}, "measurements is 9; give at least 10"),
        ({"backbones": ()}, "backbones is empty; name at least one"),
    ],
)
def test_a_plan_that_cannot_work_is_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CalibrationPlan(**wrong)  # type: ignore[arg-type]


# --- on a device


class Board:
    """A made-up one, with 90 MB of runtime and 1.5 times the live tensors; `refuses` may raise."""

    def __init__(self, refuses: Callable[[str, str], None] = lambda backbone, method: None) -> None:
        self.refuses, self.asked = refuses, list[tuple[str, str]]()
        self.runtime = "onnxruntime 1.18"

    def measure(self, model: nn.Module, images: Tensor, reference: nn.Module) -> Measurement:
        assert isinstance(model, CompressedViT)
        self.asked.append((model.backbone.facts.name, model.config.method))
        self.refuses(*self.asked[-1])
        seen, own, usual = traced(model), made_up_ms(model), made_up_ms(reference)
        peak = 90 + (seen.weight_bytes + 1.5 * seen.peak_live_bytes) / MB
        return Measurement(
            latency_ms=own, p90_ms=own, mad_ms=own / 50, runs=15, verdict="steady",
            reference_latency_ms=usual, speedup=usual / own, peak_memory_mb=peak,
            memory_source="made up", device="fake (a made-up board)", runtime=self.runtime,
            dtype="float32", batch=1, image_shape=(3, 32, 32), threads=4, when="now",
        )  # fmt: skip

    @property
    def measurer(self) -> DeviceMeasurer:
        return DeviceMeasurer(
            self.measure,
            lambda first: Machine(
                first.device, "an account", first.runtime, first.threads, "wall", first.dtype
            ),
        )


THERE = dataclasses.replace(TINY, memory=True, seconds=300.0)  # of a busy machine; takes two


def refusing(words: str, kind: str, *methods: str) -> Callable[[str, str], None]:
    def refuse(backbone: str, method: str) -> None:
        if method in methods:
            raise MeasurementFailed(words, kind=kind)

    return refuse


@pytest.mark.slow
def test_a_device_is_fitted_by_its_readings_memory_included() -> None:
    found = calibrate_target(THERE, measurer=Board().measurer)
    assert (len(found.fitted), len(found.held_out)) == (12, 3)
    assert found.check.within_10_pct == 100.0
    assert found.memory is not None
    assert found.memory.base_mb == pytest.approx(90, rel=1e-3)
    assert found.memory.overhead == pytest.approx(1.5, rel=1e-2)
    assert (found.memory.points, found.machine.threads) == (15, 4)
    assert found.memory.worst_pct < 0.1
    assert found.machine.runtime == "onnxruntime 1.18"
    row = found.fitted[0]
    assert row.latency_ms == pytest.approx(row.reference_ms)
    assert row.spread == pytest.approx(0.02)


@pytest.mark.slow
def test_what_a_device_refuses_is_passed_over_and_replaced(
    caplog: pytest.LogCaptureFixture,
) -> None:
    board = Board(refusing("no such operator", "load", "tome", "topk"))
    with caplog.at_level(logging.WARNING):
        found = calibrate_target(THERE, measurer=board.measurer)
    assert (len(found.fitted), len(found.held_out)) == (12, 3)
    methods = [method for _, method in board.asked]
    assert methods.count("tome") <= 2
    assert methods.count("topk") <= 2
    assert any("passed over: tiny to" in line for line in caplog.messages)
    rows = [*found.fitted, *found.held_out]
    assert not {"tome", "topk"} & {row.candidate.config.method for row in rows}
    assert len({id(row.candidate) for row in rows}) == 15


@pytest.mark.slow
def test_a_method_that_is_short_of_memory_once_is_tried_again() -> None:
    board = Board(refusing("out of memory", "memory", "tome"))
    calibrate_target(THERE, measurer=board.measurer)
    assert [method for _, method in board.asked].count("tome") > 2


@pytest.mark.slow
def test_a_backbone_that_does_not_fit_on_the_device_is_left_out() -> None:
    def refuse(backbone: str, method: str) -> None:
        if backbone != "tiny":
            raise MeasurementFailed("out of memory", kind="memory")

    board = Board(refuse)
    plan = dataclasses.replace(THERE, backbones=("tiny", "deit_tiny_patch16_224"), measurements=10)
    found = calibrate_target(plan, measurer=board.measurer)
    assert {row.candidate.backbone for row in found.fitted} == {"tiny"}
    assert [name for name, _ in board.asked].count("deit_tiny_patch16_224") == 1


def test_too_few_are_told_in_a_sentence_with_the_last_reason() -> None:
    board = Board(refusing("the board has no such operator", "load", "none", *METHODS))
    with pytest.raises(AutotokError, match=r"only 0 configurations .* needs 10 .*no such operator"):
        calibrate_target(THERE, measurer=board.measurer)
    assert len(board.asked) <= 10


def test_a_device_that_is_gone_ends_it() -> None:
    def gone(backbone: str, method: str) -> None:
        if len(board.asked) == 4:
            raise DeviceUnreachable("device 'fake' does not answer")

    board = Board(gone)
    with pytest.raises(DeviceUnreachable):
        calibrate_target(THERE, measurer=board.measurer)
    assert len(board.asked) == 4


def test_a_reading_of_another_runtime_is_not_mixed_in() -> None:
    board = Board()
    measurer, tiny = board.measurer, load_structure("tiny", device="cpu")
    model, images = autotok.compress(tiny, CompressionConfig()), torch.zeros(1, 3, 32, 32)
    measurer.measure(model, images, tiny, seconds=1.0)
    board.runtime = "torch 2.4 TorchScript"
    with pytest.raises(MeasurementFailed, match=r"with runtime torch 2\.4 .* after onnx"):
        measurer.measure(model, images, tiny, seconds=1.0)


def test_methods_that_the_device_cannot_run_are_not_drawn() -> None:
    drawn = draw_candidates(dataclasses.replace(TINY, without=("tome", "ltp")), 13)
    assert {c.config.method for c in drawn} == {"none", *METHODS} - {"tome", "ltp"}


def test_a_runtime_without_a_kernel_for_attention_is_traced_as_such() -> None:
    plan = dataclasses.replace(TINY, fused_attention=False, dtype="float16")
    (fused,), (apart,) = draw_candidates(TINY, 1), draw_candidates(plan, 1)
    softmax = NAMES.index("softmax.elements")
    assert apart.amounts[softmax] > fused.amounts[softmax]
    assert apart.memory[0] == pytest.approx(fused.memory[0] / 2)


def test_what_would_take_minutes_to_export_is_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "drawable_methods", lambda facts: ["topk", "kmeans"])
    drawn = draw_candidates(dataclasses.replace(TINY, most_added=100), 9)
    assert "topk" in {c.config.method for c in drawn}
    assert max(c.launches for c in drawn) <= drawn[0].launches + 100
    assert max(c.launches for c in draw_candidates(TINY, 9)) > drawn[0].launches + 100
