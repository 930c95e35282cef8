"""Factors on predictions: what they touch, how they are undone, that number formats have theirs."""

import pytest

from autotok.searching.running.correction_factors import corrected, corrected_anew

RAW = {"latency_ms": 10.0, "throughput_img_s": 100.0, "peak_memory_mb": 50.0}


def test_what_follows_from_a_metric_moves_with_it() -> None:
    found = corrected(RAW, {"latency_ms": 2.0}, "float32")
    assert (found["latency_ms"], found["throughput_img_s"]) == (20.0, 50.0)
    assert found["peak_memory_mb"] == 50.0


def test_another_number_format_has_factors_of_its_own() -> None:
    factors = {"latency_ms": 2.0, "latency_ms int8": 0.5}
    assert corrected(RAW, factors, "float32")["latency_ms"] == 20.0
    assert corrected(RAW, factors, "int8")["latency_ms"] == 5.0


def test_new_factors_take_the_place_of_those_that_a_prediction_carries() -> None:
    before = corrected(RAW, {"latency_ms int8": 0.5}, "int8")
    after = corrected_anew(before, {"latency_ms int8": 0.8}, "int8")
    assert after["latency_ms"] == pytest.approx(8.0)
    assert corrected_anew(after, {}, "int8") == pytest.approx(RAW)
