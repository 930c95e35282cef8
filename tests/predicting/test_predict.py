"""Predictions: the formula by hand, the published points, and what is said about them."""

import dataclasses
import itertools
from typing import Any

import pytest
import torch

import autotok.methods  # noqa: F401
from autotok.backbones.loading import load_structure
from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig, Reduction
from autotok.counting.operators import OperatorClass
from autotok.errors import UnknownName, UsageError
from autotok.predicting.block_figures import model_figures
from autotok.predicting.predict import (
    check_points,
    checked_error_pct,
    num_checked,
    predict,
    predict_trace,
)
from autotok.predicting.target import Target, load_target
from autotok.predicting.target_parts import Number, Setting
from autotok.predicting.trace import Operator, Trace, trace


def number(value: float) -> Number:
    return Number(value, "estimate: made up for a test")


def made_up(*, asynchronous: bool) -> Target:
    setting = Setting(
        asynchronous=asynchronous,
        fused_attention=True,
        fixed_ms=number(2.0),
        dispatch_us=number(1000.0),
        kernel_start_us=number(500.0),
        efficiency={
            **{key: number(0.5) for key in ("matmul", "conv", "bandwidth")},
            "attention": number(0.25),
        },
        runtime_base_mb=number(100.0),
        activation_overhead=number(2.0),
    )
    return dataclasses.replace(
        load_target("local"),
        peak_gmacs={"float32": number(1.0)},
        bandwidth_gb_s=number(2.0),
        settings={"eager": setting},
    )


def hand_trace() -> Trace:
    def operator(name: str, kind: OperatorClass, macs: int, size: int, launches: int) -> Operator:
        return Operator(name, kind, (), (), size, 0, macs, launches)

    return Trace(
        operators=(
            operator("mm", OperatorClass.MATMUL, 10_000_000, 1_000_000, 1),  # 20 ms, 1 ms
            operator("add", OperatorClass.ELEMENTWISE, 0, 3_000_000, 1),  # 3 ms
            operator("sort", OperatorClass.SORT, 0, 1_000_000, 2),  # 1 ms
            operator("view", OperatorClass.VIEW, 0, 0, 0),
        ),
        batch=1,
        dtype="float32",
        image_shape=(3, 32, 32),
        weight_bytes=10 * 10**6,
        peak_live_bytes=3 * 10**6,
    )


def test_latency_and_memory_follow_the_formula_by_hand() -> None:
    serial = predict_trace(hand_trace(), made_up(asynchronous=False))
    queued = predict_trace(hand_trace(), made_up(asynchronous=True))
    device = 20 + 3 + 1 + 4 * 0.5
    assert serial.latency_ms == pytest.approx(2 + 4 * 1.0 + device)
    assert queued.latency_ms == pytest.approx(2 + device)
    assert serial.peak_memory_mb == pytest.approx(10 + 100 + 2 * 3)


def test_where_kernels_queue_the_host_decides_for_small_ones() -> None:
    target = made_up(asynchronous=True)
    small = dataclasses.replace(hand_trace(), operators=hand_trace().operators[1:2] * 50)
    found = predict_trace(small, target)
    assert found.host_ms == 50.0
    assert found.latency_ms == pytest.approx(2 + max(found.host_ms, found.device_ms))


@pytest.mark.parametrize(("name", "limit"), [("rtx3090", 10.0), ("jetson-nx", 15.0)])
def test_latency_at_published_points_is_within_the_stated_error(name: str, limit: float) -> None:
    rows = [row for row in check_points(load_target(name)) if row.point.metric != "peak_memory_mb"]
    assert {row.point.method for row in rows} >= {"tome", "ltp", "papr"}
    assert max(abs(row.error_pct) for row in rows) <= limit


def test_memory_at_published_points_is_within_five_per_cent() -> None:
    rows = [r for r in check_points(load_target("jetson-nx")) if r.point.metric == "peak_memory_mb"]
    assert [row.fitted for row in rows].count(False) == 2
    assert max(abs(row.error_pct) for row in rows) <= 5.0


@pytest.mark.slow
def test_throughput_on_the_a6000_is_in_the_published_order_but_where_its_notes_say() -> None:
    rows = check_points(load_target("a6000"))
    assert not any(row.fitted for row in rows)
    assert max(abs(row.error_pct) for row in rows) <= 10.0
    wrong = {
        (faster.point.method, slower.point.method)
        for faster, slower in itertools.permutations(rows, 2)
        if faster.published > slower.published and faster.predicted < slower.predicted
    }
    behind_tofu = {("dtem", "tofu"), ("diffrate", "tofu"), ("tome", "tofu")}
    assert wrong <= behind_tofu | {("diffrate", "tome")}


def test_products_in_a_format_of_their_own_leave_the_bytes_alone() -> None:
    (point,) = (p for p in load_target("a6000").checked_against if p.method == "none")
    target = load_target("a6000")
    tf32, fp32 = (
        check_points(
            dataclasses.replace(target, checked_against=(dataclasses.replace(point, dtype=d),))
        )
        for d in ("tfloat32", "float32")
    )
    faster = tf32[0].predicted / fp32[0].predicted
    assert 1.1 < faster < target.peak("tfloat32") / target.peak("float32")


def test_tome_is_slower_than_nothing_at_batch_1_on_the_rtx_3090() -> None:
    rows = {row.point.method: row.predicted for row in check_points(load_target("rtx3090"))[:3]}
    assert rows["tome"] > 2 * rows["none"]


def test_points_are_predicted_anew_when_a_coefficient_changes() -> None:
    target = load_target("rtx3090")
    setting = dataclasses.replace(target.setting(), dispatch_us=number(41.0))
    slower = dataclasses.replace(target, settings={"eager": setting})
    assert check_points(slower)[0].predicted > 1.5 * check_points(target)[0].predicted


@pytest.mark.parametrize("name", ["rtx3090", "jetson-nx", "a6000"])
def test_fitted_points_are_told_from_held_out_ones(name: str) -> None:
    rows = check_points(load_target(name))
    assert any(not row.fitted for row in rows)
    for row in rows:
        expected = 100 * (row.predicted / row.published - 1)
        assert row.error_pct == pytest.approx(expected)


def test_a_prediction_says_whether_its_target_was_ever_checked() -> None:
    traced = trace(tiny_backbone())
    known, unknown = (
        predict_trace(traced, load_target("rtx3090")),
        predict_trace(traced, load_target("h100")),
    )
    assert known.error_pct == checked_error_pct(load_target("rtx3090"))
    assert "latency errors up to 6.0 % at 12 points, 8 held out" in known.source
    assert "memory never checked" in known.source
    assert "target rtx3090, PyTorch eager float32;" in known.source
    assert unknown.error_pct is None
    assert "never checked: an estimate" in unknown.source
    assert (known.target, known.dtype, known.batch) == ("rtx3090", "float32", 1)


def test_no_error_is_claimed_where_every_point_was_fitted() -> None:
    target = load_target("jetson-nx")
    points = tuple(dataclasses.replace(p, role="fitted") for p in target.checked_against)
    found = predict_trace(
        trace(tiny_backbone()), dataclasses.replace(target, checked_against=points)
    )
    assert found.error_pct is None
    assert "latency fitted to 3 points, none held out" in found.source


def test_fewer_tokens_are_predicted_faster_and_smaller_in_a_batch() -> None:
    target, backbone = load_target("jetson-nx"), load_structure("vit_small_patch16_224")
    config = CompressionConfig(method="ltp", reductions=(Reduction(0, num_keep=98),))
    full = predict_trace(trace(backbone, batch=16), target)
    half = predict_trace(trace(compress_backbone(backbone, config), batch=16), target)
    assert 0.4 * full.latency_ms < half.latency_ms < 0.75 * full.latency_ms
    assert half.peak_memory_mb < full.peak_memory_mb
    assert half.throughput_img_s == pytest.approx(16_000 / half.latency_ms)


def test_errors_are_of_points_in_the_number_format_that_was_asked_for() -> None:
    target, model = load_target("jetson-nx"), tiny_backbone()
    own, other = predict(model, target), predict(model, target, dtype="float16")
    assert own.error_pct is not None
    assert (other.error_pct, other.memory_error_pct, other.dtype) == (None, None, "float16")
    assert "latency never checked; memory never checked" in other.source
    assert other.device_ms < own.device_ms


def test_errors_are_of_points_at_the_batch_that_was_asked_for() -> None:
    target, model = load_target("jetson-nx"), tiny_backbone()
    own, some, many = (predict(model, target, batch=batch) for batch in (None, 64, 256))
    assert own.error_pct is not None
    assert "latency errors up to 1.3 % at 3 points, 1 held out; memory errors" in own.source
    assert (some.error_pct, some.memory_error_pct) == (None, own.memory_error_pct)
    assert "latency never checked at batch 64 (points: batch 1); memory errors" in some.source
    assert (many.error_pct, many.memory_error_pct) == (None, None)
    assert (
        "latency never checked at batch 256 (points: batch 1); memory never checked at batch 256"
        " (points: batch 64)" in many.source
    )
    assert num_checked(target, "latency") == 3
    assert num_checked(target, "latency", 2) == num_checked(target, "memory", 65) == 0


def test_a_format_that_only_products_compute_in_is_predicted_like_its_points() -> None:
    target, model = load_target("a6000"), tiny_backbone()
    found, plain = predict(model, target, dtype="tfloat32"), predict(model, target)
    assert (found.dtype, found.peak_memory_mb) == ("tfloat32", plain.peak_memory_mb)
    checked = predict(model, target, dtype="tfloat32", batch=128)  # as its points
    assert checked.error_pct is not None
    assert (found.error_pct, plain.error_pct) == (None, None)
    mine = dataclasses.replace(target, default_dtype="tfloat32")
    assert predict(model, mine).latency_ms == found.latency_ms
    compressed = compress_backbone(model, CompressionConfig())
    assert model_figures(compressed, mine).latency_ms == pytest.approx(found.latency_ms)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"dtype": "int8"}, "dtype of target 'jetson-nx' 'int8' is unknown"),
        ({"dtype": "bf16"}, "dtype of target 'jetson-nx' 'bf16' is unknown"),
        ({"batch": 0}, "batch is 0; give at least 1"),
        ({"batch": -1}, "batch is -1; give at least 1"),
    ],
)
def test_what_cannot_be_predicted_is_told_in_a_sentence(
    asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        predict(tiny_backbone(), "jetson-nx", **asked)


def test_a_dtype_the_target_has_no_peak_for_is_refused() -> None:
    with pytest.raises(UnknownName, match="dtype of target 'local' 'float16' is unknown"):
        predict_trace(trace(tiny_backbone(), dtype=torch.float16), load_target("local"))
