"""Finalists are measured on the device, and judged by it."""

import csv
import dataclasses
from pathlib import Path

import evidence
import pytest
from bench import Bench, ids, problem, search

from autotok.config import CompressionConfig
from autotok.devices.measurement import Measurement, MeasurementFailed
from autotok.searching.records.record import TrialRecord
from autotok.searching.running.device_corrections import DeviceCorrections
from autotok.searching.running.search_result import SearchResult


def best_of(result: SearchResult) -> CompressionConfig:
    assert result.best is not None
    assert result.best.config is not None
    return result.best.config


def test_every_finalist_is_measured_once_and_judged_by_it(tmp_path: Path) -> None:
    bench = Bench(factor=1.02)
    result = search(bench, tmp_path / "run")
    assert len(ids(bench.asked)) == len(set(ids(bench.asked)))
    for record in result.front:
        assert record.reading is not None
        assert record.costs is not None
        assert record.values["latency_ms"] == pytest.approx(1.02 * 10.0 * record.costs.macs / 1e9)
        assert record.values["latency_ms"] <= 25.0
        assert record.predicted["latency_ms"] != record.values["latency_ms"]
    assert result.final.reference is not None
    assert result.final.reference.reading is not None  # measured before the first trial
    with open(result.directory / "pareto.csv", newline="") as file:
        assert {row["latency_is"] for row in csv.DictReader(file)} == {"measured"}


def test_a_finalist_that_is_outside_a_limit_when_measured_is_replaced(tmp_path: Path) -> None:
    slow = best_of(search(Bench(), tmp_path / "plain")).method
    result = search(Bench(**{slow: 1.6}), tmp_path / "run")
    assert slow in {r.config.method for r in result.final.outside if r.config}
    assert all(not r.feasible for r in result.final.outside)
    assert "measured" in result.final.outside[0].reason
    assert "over the limit of 25" in result.final.outside[0].reason
    assert result.front
    assert all(r.values["latency_ms"] <= 25.0 for r in result.front)
    assert result.best is not None
    assert result.best.within_budget


def test_finalists_are_chosen_anew_until_one_is_inside_when_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def measured(record: TrialRecord) -> TrialRecord:
        if not out_of_memory:
            corrections._readings[str(record.number)] = reading
        return dataclasses.replace(record, feasible=record.number == 6)

    corrections, out_of_memory, reading = (
        DeviceCorrections(problem(None)),
        False,
        Bench()(CompressionConfig()),
    )
    monkeypatch.setattr(corrections, "judged", measured)
    monkeypatch.setattr(corrections, "learn", lambda: None)
    records = [evidence.record(n, "tome", 2.0, "1" * 50) for n in range(8)]
    chosen, outside = corrections.settle(records, lambda pool: pool[:1])
    assert [r.number for r in chosen] == [6]
    assert [r.number for r in outside] == list(range(6))
    assert corrections.settle(records[:3], lambda pool: pool[:1])[0] == []
    out_of_memory = True  # what teaches nothing is not gone on with until all were tried
    assert len(corrections.settle(records, lambda pool: pool[:1])[1]) == 3


def test_a_finalist_that_does_not_fit_into_memory_is_out_with_its_reason(tmp_path: Path) -> None:
    big = best_of(search(Bench(), tmp_path / "plain")).method
    failed = MeasurementFailed("device 'board' ran out of memory with this model", kind="memory")
    result = search(Bench(**{big: failed}), tmp_path / "run")
    assert big in {r.config.method for r in result.final.outside if r.config}
    assert big not in {r.config.method for r in result.front if r.config}
    assert result.measuring["failures"][0] == str(failed)
    rows = (result.directory / "trials.csv").read_text()
    assert "ran out of memory with this model" in rows


def test_a_finalist_that_the_device_cannot_load_stays_and_says_so(tmp_path: Path) -> None:
    plain = best_of(search(Bench(), tmp_path / "plain"))
    odd = plain.method
    failed = MeasurementFailed("device 'board': it cannot load this model", kind="load")
    result = search(Bench(**{odd: failed}), tmp_path / "run")
    [best] = [r for r in result.front if r.config and r.config == plain]
    assert best.reading is None
    assert best.unmeasured == str(failed)
    row = best.row()
    assert row["latency_is"] == "predicted, unchecked"
    assert row["not_measured"] == str(failed)


def test_memory_that_holds_other_things_corrects_nothing_and_judges_nobody(tmp_path: Path) -> None:
    class Crowded(Bench):
        def __call__(self, config: CompressionConfig) -> Measurement:
            found = super().__call__(config)
            return dataclasses.replace(found, peak_memory_mb=700.0, memory_alone=False)

    result = search(Crowded(), tmp_path / "run", "450MB")
    assert result.measuring["corrections"] == {}
    assert "peak_memory_mb" not in result.measuring["ratios"]
    assert not result.final.outside
    for record in result.front:
        assert record.reading is not None
        assert record.values["peak_memory_mb"] == record.predicted["peak_memory_mb"] < 450.0
        assert record.row()["memory_is"] == "predicted, unchecked"
