"""Searches over any metrics of the table: two to four of them, latency and throughput included."""

import csv
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import optuna
import pytest
from problems import fake_problem, vit_facts
from test_device_corrections import Bench

from autotok.config import CompressionConfig, Reduction
from autotok.devices.measurement import Measurement
from autotok.errors import ConfigError, InfeasibleBudget, UnknownName
from autotok.metrics import metric_of
from autotok.searching.records.objective import judged_by, losses, make_objectives
from autotok.searching.records.record import TrialRecord
from autotok.searching.running.device_corrections import DeviceCorrections
from autotok.searching.running.opening import resume_search, run_search
from autotok.searching.running.question import Question, check_names
from autotok.searching.running.search_result import SearchResult
from autotok.searching.space.problem import ExactCosts, Problem
from autotok.searching.space.settings import SearchSettings

FACTS = vit_facts()
COSTS = ExactCosts(FACTS)
BATCH, FIXED_MS = 64, 40.0


def predict(config: CompressionConfig) -> Mapping[str, float]:
    """Merging takes time of its own, so that time and cost order configurations differently."""
    cost = COSTS.cost(config)
    slow = 1.4 if config.method in ("tome", "pitome", "tofu") else 1.0
    latency = FIXED_MS + 100.0 * slow * cost.macs / 1e9
    return {
        "latency_ms": latency,
        "throughput_img_s": 1000.0 * BATCH / latency,
        "peak_memory_mb": 300.0 - 20.0 * len(config.reductions) + 10.0 * cost.macs / 1e9,
    }


def problem(budgets: str = "70%") -> Problem:
    return fake_problem(budgets, facts=FACTS, predict=predict)


def search(
    folder: Path, *objectives: str, budgets: str = "70%", trials: int = 20, sampler: str = "auto"
) -> SearchResult:
    settings = SearchSettings(n_trials=trials, objectives=objectives, sampler=sampler)
    return run_search(settings, problem(budgets), folder)


def values(result: SearchResult, *names: str) -> list[list[float]]:
    """Of the front, worked out anew: nothing is read from the record's own table."""
    found = []
    for record in result.front:
        assert record.config is not None
        assert record.score is not None
        cost = COSTS.cost(record.config)
        known = {**predict(record.config), "macs": cost.macs, "top1": record.score.value}
        found.append([known[name] for name in names])
    return found


@pytest.mark.parametrize(
    ("asked", "names", "signs"),
    [
        (("top1", "latency"), ("top1", "latency_ms"), (1, -1)),
        (("top1", "throughput", "macs"), ("top1", "throughput_img_s", "macs"), (1, 1, -1)),
        (
            ("quality", "latency", "memory", "macs"),
            ("top1", "latency_ms", "peak_memory_mb", "macs"),
            (1, -1, -1, -1),
        ),
    ],
)
def test_nothing_on_the_front_is_dominated_in_what_was_asked_for(
    tmp_path: Path, asked: tuple[str, ...], names: tuple[str, ...], signs: tuple[int, ...]
) -> None:
    result = search(tmp_path / "run", *asked)
    points = np.array(values(result, *names)) * np.array(signs)
    assert len(points) >= 2
    for point in points:
        assert not any((points >= point).all(axis=1) & (points > point).any(axis=1))
    rows = list(csv.DictReader((tmp_path / "run" / "pareto.csv").read_text().splitlines()))
    column = metric_of(names[1]).column
    assert [float(row[column]) for row in rows] == pytest.approx(
        [v[1] for v in values(result, *names)]
    )
    data = json.loads((tmp_path / "run" / "pareto.json").read_text())
    assert [o["name"] for o in data["objectives"]] == [metric_of(n).column for n in names]
    assert [o["maximise"] for o in data["objectives"]] == [sign > 0 for sign in signs]


def test_the_study_carries_names_units_and_directions_of_the_table(tmp_path: Path) -> None:
    search(tmp_path / "run", "throughput", "quality", trials=8)
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "run" / "study.log"))
    study = optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(backend))
    assert study.metric_names == ["throughput_img_s [img/s]", "top1_pct [%]"]
    assert [d.name for d in study.directions] == ["MAXIMIZE", "MAXIMIZE"]


def test_the_first_objective_decides_what_is_best(tmp_path: Path) -> None:
    result = search(tmp_path / "run", "latency", "top1")
    assert result.best is not None
    assert result.best.config is not None
    fastest = min(value for (value,) in values(result, "latency_ms"))
    assert predict(result.best.config)["latency_ms"] == fastest


def test_a_throughput_budget_is_met_by_every_trial_and_nearly_reached(tmp_path: Path) -> None:
    least = 1.5 * predict(CompressionConfig())["throughput_img_s"]
    result = search(tmp_path / "run", "top1", "macs", budgets=f"{least:.1f}img/s")
    rates = [r.predicted["throughput_img_s"] for r in result.records if r.state == "complete"]
    assert min(rates) >= round(least, 1)
    assert min(rates) < 1.05 * least  # not only far faster ones


def test_a_share_of_the_throughput_is_a_multiple_of_the_uncompressed_models() -> None:
    plain = predict(CompressionConfig())["throughput_img_s"]
    (budget,) = problem("150%throughput").budgets
    assert budget.limit == pytest.approx(1.5 * plain)
    assert not budget.holds(plain)
    with pytest.raises(ConfigError, match="at least 100%"):
        problem("50%throughput")


def test_a_throughput_that_nothing_reaches_names_the_nearest_that_can_be(tmp_path: Path) -> None:
    most = 1000.0 * BATCH / FIXED_MS
    with pytest.raises(InfeasibleBudget, match=r"ask for [\d.]+img/s or less") as caught:
        search(tmp_path / "run", "top1", "macs", budgets=f"{most:.0f}img/s")
    suggested = str(caught.value).split("ask for ")[1].split(" or less")[0]
    search(tmp_path / "again", "top1", "macs", budgets=suggested, trials=4)


def test_a_resumed_search_over_three_objectives_ends_as_one_that_was_not_stopped(
    tmp_path: Path,
) -> None:
    objectives = ("top1", "latency", "memory")
    whole = search(tmp_path / "whole", *objectives, trials=16)
    search(tmp_path / "part", *objectives, trials=9)
    rest = resume_search(problem(), tmp_path / "part", n_trials=16)
    assert [r.params for r in rest.records] == [r.params for r in whole.records]
    assert [r.number for r in rest.front] == [r.number for r in whole.front]


@pytest.mark.parametrize("sampler", ["nsgaii", "random"])
def test_other_samplers_take_four_objectives_too(tmp_path: Path, sampler: str) -> None:
    names = ("top1", "latency", "memory", "params")
    settings = SearchSettings(n_trials=12, objectives=names, sampler=sampler)
    assert run_search(settings, problem(), tmp_path / "run").front


# --- what cannot be asked


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("top1", "top1_pct"), "one to 4 different names"),
        (("quality", "macs", "params", "latency", "memory"), "one to 4 different names"),
        (("top1", "kl"), "judges one quality"),
        ((), "one to 4 different names"),
    ],
)
def test_objectives_that_say_nothing_together_are_refused(
    names: tuple[str, ...], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        SearchSettings(objectives=names)


def test_an_unknown_objective_is_answered_with_the_nearest() -> None:
    with pytest.raises(
        UnknownName, match="objective 'latencey' is unknown; did you mean 'latency'"
    ):
        SearchSettings(objectives=("quality", "latencey"))


def test_an_objective_that_names_a_quality_decides_what_is_judged() -> None:
    assert judged_by(("kl", "macs"), "auto") == "kl"
    assert judged_by(("quality", "macs"), "auto") == "auto"
    with pytest.raises(ConfigError, match="give --quality kl"):
        make_objectives(("kl", "macs"), "top1")


def test_an_objective_on_the_device_needs_to_know_the_device(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="latency needs to know the device: give --target"):
        check_names(Question(budgets=("50%",)), objectives=("top1", "latency"))
    with pytest.raises(ConfigError, match="energy is known where a device counts it"):
        check_names(Question(budgets=("50%",), target="jetson-nx"), objectives=("top1", "energy"))
    settings = SearchSettings(n_trials=4, objectives=("quality", "throughput"))
    with pytest.raises(ConfigError, match="give --target"):
        run_search(settings, fake_problem(facts=FACTS), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- with a device


class Counting(Bench):
    """A bench that draws 12 W (none of it known without a counter)."""

    def __init__(self, factor: float = 1.0, *, watts: float | None = 12.0) -> None:
        super().__init__(factor)
        self.watts = watts

    def __call__(self, config: CompressionConfig) -> Measurement:
        found = super().__call__(config)
        latency = self.factor * predict(config)["latency_ms"]
        energy = None if self.watts is None else self.watts * latency
        return dataclasses.replace(
            found, latency_ms=latency, batch=BATCH, energy_mj=energy,
            peak_memory_mb=predict(config)["peak_memory_mb"],
        )  # fmt: skip


def test_throughput_follows_a_corrected_latency_and_energy_the_power_measured() -> None:
    measuring = dataclasses.replace(problem("70%, 150%throughput"), measure=Counting(2.0))
    corrections = DeviceCorrections(measuring)
    before = corrections.problem.budgets[1].limit
    corrections.learn_early()
    assert corrections.problem.predict is not None
    found = corrections.problem.predict(CompressionConfig())
    plain = predict(CompressionConfig())["latency_ms"]
    assert found["latency_ms"] == pytest.approx(2.0 * plain)
    assert found["throughput_img_s"] == pytest.approx(1000.0 * BATCH / (2.0 * plain))
    assert found["energy_mj"] == pytest.approx(12.0 * 2.0 * plain)
    assert found["peak_memory_mb"] == predict(CompressionConfig())["peak_memory_mb"]
    assert corrections.problem.budgets[1].limit == pytest.approx(before / 2.0)


def test_finalists_are_chosen_by_predictions_under_one_correction() -> None:
    """An extended run has trials told under the correction of then, and others under today's."""
    bench = Counting(2.0)
    corrections = DeviceCorrections(dataclasses.replace(problem(), measure=bench))
    config = CompressionConfig()
    early = TrialRecord(0, "complete", config, predicted=predict(config))
    corrections.learn_early()
    assert corrections.problem.predict is not None
    late = TrialRecord(1, "complete", config, predicted=corrections.problem.predict(config))
    seen: list[Mapping[str, float]] = []

    def choose(records: list[TrialRecord]) -> list[TrialRecord]:
        seen.extend(record.predicted for record in records)
        return []

    corrections.settle([early, late], choose)
    assert dict(seen[0]) == pytest.approx(dict(seen[1]))
    bench.factor = 1.0  # it was warm then: the next measurements bring the median down
    for layer in range(8):
        corrections.judged(TrialRecord(2 + layer, "complete", topk(layer)))
    corrections.learn()
    seen.clear()
    corrections.settle([late], choose)
    assert seen[0]["latency_ms"] == pytest.approx(predict(config)["latency_ms"])
    assert seen[0]["throughput_img_s"] == pytest.approx(predict(config)["throughput_img_s"])
    assert "latency_correction" not in seen[0]


def topk(layer: int) -> CompressionConfig:
    return CompressionConfig("topk", (Reduction(layer, num_keep=98),))


def test_energy_is_a_budget_and_an_objective_where_the_device_counts_it(tmp_path: Path) -> None:
    limit = 0.7 * 12.0 * predict(CompressionConfig())["latency_ms"]
    measuring = dataclasses.replace(problem(f"{limit:.1f}mJ"), measure=Counting())
    settings = SearchSettings(n_trials=12, objectives=("top1", "energy"))
    result = run_search(settings, measuring, tmp_path / "run")
    assert result.front
    for record in result.front:
        assert record.config is not None
        energy = 12.0 * predict(record.config)["latency_ms"]
        assert record.values["energy_mj"] == pytest.approx(energy)
        assert energy <= round(limit, 1)
        assert record.source(metric_of("energy")) == "measured"
    points = losses([r.values for r in result.front], make_objectives(settings.objectives, "top1"))
    assert (np.diff(points[:, 1]) > 0).all()  # cheapest first
    assert (np.diff(points[:, 0]) < 0).all()  # and better for it


def test_a_device_that_counts_no_energy_is_told_before_the_first_trial(tmp_path: Path) -> None:
    measuring = dataclasses.replace(problem(), measure=Counting(watts=None))
    settings = SearchSettings(n_trials=4, objectives=("top1", "energy"))
    with pytest.raises(ConfigError, match="energy is known where a device counts it"):
        run_search(settings, measuring, tmp_path / "run")
    assert not (tmp_path / "run").exists()
