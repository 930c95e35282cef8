"""Searches with a device at hand: what is measured when, and what that changes."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from bench import COSTS, FACTS, SETTINGS, Bench, ids, problem, search
from problems import FakeEvaluator, fake_problem

from autotok.config import CompressionConfig
from autotok.devices.measurement import Measurement
from autotok.errors import DeviceUnreachable, InfeasibleBudget
from autotok.searching.records.record import TrialRecord
from autotok.searching.records.rundir import RunDirectory
from autotok.searching.running.device_corrections import DeviceCorrections
from autotok.searching.running.events import BudgetsResolved, Event, Started, Working
from autotok.searching.running.opening import open_search, resume_search, run_search
from autotok.searching.running.search_result import SearchResult
from autotok.searching.running.time_limit import Around, TimeLimit
from autotok.searching.space.settings import SearchSettings

# --- before the first trial


def test_a_few_configurations_are_measured_before_the_first_trial(tmp_path: Path) -> None:
    bench, when = Bench(), dict[str, int]()

    def listen(event: Event) -> None:
        if isinstance(event, Started):
            when["started"] = len(bench.asked)
        if isinstance(event, Working):
            when.setdefault(event.text, len(bench.asked))

    run_search(SETTINGS, problem(bench), tmp_path / "run", listen)
    assert when["started"] == 3
    first = [config.method for config in bench.asked[:3]]
    assert first[0] == "none"
    assert len(set(first)) == 3
    assert when[f"measuring on the device: {first[1]}"] == 1


def test_predictions_that_are_off_are_corrected_from_the_first_trial_on(tmp_path: Path) -> None:
    result = search(Bench(factor=1.5), tmp_path / "run", "25ms")
    assert result.measuring["corrections"] == {"latency_ms": pytest.approx(1.5)}
    assert result.measuring["stated_error_pct"] == {"latency_ms": None, "peak_memory_mb": None}
    sampled = [r for r in result.records if r.state == "complete"]
    for record in sampled:
        assert record.costs is not None
        plain = 10.0 * record.costs.macs / 1e9
        assert record.predicted["latency_ms"] == pytest.approx(1.5 * plain)
        assert record.predicted["latency_ms"] <= 25.0
    assert not result.final.outside  # for the correction was known in time


def test_a_disagreement_within_the_stated_error_corrects_nothing(tmp_path: Path) -> None:
    bench = Bench(factor=1.15)
    result = run_search(SETTINGS, problem(bench, stated=20.0), tmp_path / "run")
    assert result.measuring["corrections"] == {}
    assert result.measuring["stated_error_pct"]["latency_ms"] == 20.0
    ratios = result.measuring["ratios"]["latency_ms"]
    assert ratios == [pytest.approx(1.15)] * len(ratios)
    assert len(ratios) == result.measuring["num_measured"] == len(bench.asked)


def test_a_share_of_the_latency_is_one_of_the_measured_latency(tmp_path: Path) -> None:
    corrections = DeviceCorrections(problem(Bench(factor=2.0), "50%latency"))
    before = corrections.problem.budgets[0].limit
    corrections.learn_early()
    assert corrections.problem.budgets[0].limit == pytest.approx(2.0 * before)


@pytest.mark.parametrize("stated", [None, 20.0])
def test_the_share_is_of_the_uncompressed_model_whatever_the_methods_take(
    stated: float | None, tmp_path: Path
) -> None:
    bench = Bench(factor=3.0, none=0.38)  # 1.14 in all: within the stated error
    corrections = DeviceCorrections(problem(bench, "50%latency", stated=stated))
    before = corrections.problem.budgets[0].limit
    corrections.learn_early()
    assert corrections.problem.budgets[0].limit == pytest.approx(1.14 * before)
    run_search(SETTINGS, problem(bench, "50%latency", stated=stated), tmp_path / "run")
    resume_search(problem(bench, "50%latency", stated=stated), tmp_path / "run", n_trials=8)
    limits = RunDirectory(tmp_path / "run").read_config()["limits"]
    assert limits[0]["limit"] == pytest.approx(1.14 * before)


def test_a_budget_that_only_the_predictions_meet_is_refused_with_the_measured_figure(
    tmp_path: Path,
) -> None:
    with pytest.raises(InfeasibleBudget, match="ask for"):
        search(Bench(factor=40.0), tmp_path / "run", "25ms")
    assert not (tmp_path / "run").exists()


def test_a_device_that_is_gone_at_the_start_leaves_no_run_behind(tmp_path: Path) -> None:
    bench = Bench()
    bench.breaks_after = 1
    with pytest.raises(DeviceUnreachable):
        search(bench, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- interrupted and resumed


def test_a_device_that_is_gone_at_the_end_stops_the_search_and_a_resume_goes_on(
    tmp_path: Path,
) -> None:
    whole = search(Bench(factor=1.2), tmp_path / "whole")
    bench = Bench(factor=1.2)
    bench.breaks_after = 4
    with pytest.raises(DeviceUnreachable):
        search(bench, tmp_path / "run")
    assert (tmp_path / "run" / "trials.csv").is_file()
    back = Bench(factor=1.2)
    result = resume_search(problem(back), tmp_path / "run")
    assert not set(ids(bench.asked)) & set(ids(back.asked))  # nothing is measured twice
    assert [r.to_dict() for r in result.front] == [_timeless(r, result) for r in whole.front]
    assert result.measuring == whole.measuring


def _timeless(record: object, like: SearchResult) -> object:
    from autotok.searching.records.record import TrialRecord

    assert isinstance(record, TrialRecord)
    seconds = {r.number: r.seconds for r in like.front}
    return {**record.to_dict(), "seconds": seconds.get(record.number)}


def test_a_resume_without_the_device_keeps_what_was_measured(tmp_path: Path) -> None:
    bench = Bench(factor=1.2)
    bench.breaks_after = 4
    with pytest.raises(DeviceUnreachable):
        search(bench, tmp_path / "run")
    result = resume_search(problem(None), tmp_path / "run")
    measured = [r for r in result.front if r.reading is not None]
    assert len(measured) == 1
    assert len(result.front) > 1
    assert result.measuring["num_measured"] == 4
    assert result.measuring["corrections"] == {"latency_ms": pytest.approx(1.2)}
    note = json.loads((result.directory / "pareto.json").read_text())["measuring"]
    assert note["device"] == "board"


def test_a_finished_run_that_is_resumed_measures_nothing(tmp_path: Path) -> None:
    search(Bench(), tmp_path / "run")
    again = Bench()
    resume_search(problem(again), tmp_path / "run")
    assert again.asked == []


# --- and the clock


def test_measuring_is_counted_in_the_time_that_is_set_aside(tmp_path: Path) -> None:
    corrections = DeviceCorrections(problem(Bench()))
    assert corrections.expected_s(6) == 90.0  # a guess, until something was measured
    corrections.learn_early()
    assert corrections.expected_s(6) < 1.0
    assert DeviceCorrections(problem(None)).expected_s(6) == 0.0


def test_a_search_ends_its_trials_in_time_to_measure(tmp_path: Path) -> None:
    settings = SearchSettings(n_trials=8, min_trials=1, timeout_s=1000.0)
    plain = fake_problem(facts=FACTS, evaluate=FakeEvaluator(FACTS))
    clock = TimeLimit(settings, open_search(settings, plain, tmp_path / "study.log"), 1, Around())
    assert not clock.closes_trials()
    clock.reserved_s = 1001.0
    assert clock.closes_trials()
    assert clock.closes_promotions()


# --- one run, one budget


def budgets_of(folder: Path) -> tuple[list[str], list[float], list[float]]:
    """What a run says its limits are: words and numbers in config.yaml, numbers in pareto.json."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    limits = [limit["limit"] for limit in config["limits"]]
    found = json.loads((folder / "pareto.json").read_text())["budgets"]
    return config["budgets"], limits, [b["limit"] for b in found]


def test_a_run_states_the_same_limit_everywhere_and_after_a_resume(tmp_path: Path) -> None:
    said: list[tuple[float, ...]] = []

    def listen(event: Event) -> None:
        if isinstance(event, BudgetsResolved):
            said.append(tuple(b.limit for b in event.budgets))

    folder, bench = tmp_path / "run", Bench(factor=2.35)
    whole = 10.0 * COSTS.cost(CompressionConfig()).macs / 1e9
    result = run_search(SETTINGS, problem(bench, "70%latency"), folder, listen)
    limit = pytest.approx(0.7 * 2.35 * whole)
    words, stated, found = budgets_of(folder)
    assert said == [(limit,)]
    assert [b.limit for b in result.budgets] == stated == found == [said[0][0]]
    assert words == [b.echo for b in result.budgets]
    other = dataclasses.replace(problem(Bench(factor=9.0), "70%latency"))
    again = resume_search(other, folder, listen, n_trials=20)
    assert said == [(stated[0],)] * 2
    assert [b.limit for b in again.budgets] == stated
    assert budgets_of(folder) == (words, stated, stated)


def test_a_run_killed_before_it_noted_its_measurements_keeps_its_limit(tmp_path: Path) -> None:
    asked, whole = problem(None, "70%latency"), 10.0 * COSTS.cost(CompressionConfig()).macs / 1e9
    doubled = dataclasses.replace(asked.budgets[0], limit=2 * asked.budgets[0].limit)
    corrections = DeviceCorrections(asked, limits=(doubled,))
    corrections.keep_in(Notes())
    assert corrections.problem.budgets == (doubled,)
    assert corrections.problem.predict is not None
    predicted = corrections.problem.predict(CompressionConfig())
    assert predicted["latency_ms"] == pytest.approx(2 * whole)
    assert corrections.original.fingerprint == asked.fingerprint


class Notes:
    """A study that knows nothing."""

    def note(self, key: str, value: Any) -> None: ...

    def noted(self, key: str) -> Any:
        return None


@pytest.mark.parametrize(("budget", "idle"), [("60%", False), ("9e3ms", True), ("1e6GMACs", True)])
def test_a_budget_above_the_uncompressed_cost_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, budget: str, idle: bool
) -> None:
    said: list[str] = []

    def listen(event: Event) -> None:
        said.extend([event.text] if isinstance(event, Working) else [])

    run_search(SETTINGS, problem(None, budget), tmp_path / "run", listen)
    for texts in (said, caplog.messages):
        found = [text for text in texts if "limits nothing: the uncompressed model costs" in text]
        assert len(found) == idle


def test_number_formats_are_held_against_each_other_by_what_was_timed_in_turns() -> None:
    plain = CompressionConfig("none")
    bench = Bench()

    def measure(config: CompressionConfig) -> Measurement:
        lower = config.number_format == "int8"  # the machine is half as fast when int8 is timed
        return dataclasses.replace(
            bench(plain),
            latency_ms=60.0 if lower else 50.0,
            speedup=1.6 if lower else 1.0,
            dtype=config.number_format,
        )

    found = DeviceCorrections(dataclasses.replace(problem(bench), measure=measure))
    for number_format in ("float32", "int8"):
        config = dataclasses.replace(plain, number_format=number_format)
        found.judged(TrialRecord(0, "complete", config))
    assert found.summary()["over_float32"] == {"int8": [1.0 / 1.6]}
    assert found.summary()["dtype"] == "float32 and int8"
