"""A new search starts from the front of an earlier one, at the costs that it allows."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from problems import fake_problem

from autotok.config import CompressionConfig, SubnetSpec
from autotok.searching.proposing.earlier import front_again, without_device, worth_keeping
from autotok.searching.records.objective import losses, make_objectives
from autotok.searching.records.pareto import hypervolume
from autotok.searching.records.rundir import RunDirectory
from autotok.searching.running.opening import kept_trials, run_search
from autotok.searching.running.search_result import SearchResult
from autotok.searching.space.settings import SearchSettings

OBJECTIVES = make_objectives(("quality", "macs"), "top1")


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    folder = tmp_path_factory.mktemp("earlier")
    return run_search(SearchSettings(n_trials=24, sampler="auto"), fake_problem(), folder / "run")


def test_the_trials_of_a_run_are_read_from_its_study(earlier: SearchResult) -> None:
    kept = kept_trials(RunDirectory.open(earlier.directory))
    assert [r.number for r in kept] == [r.number for r in earlier.records]
    assert [r.score for r in kept] == [r.score for r in earlier.records]


def test_the_front_comes_again_at_its_own_costs(earlier: SearchResult) -> None:
    problem = fake_problem()
    kept = worth_keeping(earlier.records, OBJECTIVES, fake_problem())
    assert all(r.tally is None for r in kept)
    by_another = dataclasses.replace(problem, metric="kl")
    assert worth_keeping(earlier.records, OBJECTIVES, by_another) == []
    again = front_again(kept, problem, OBJECTIVES)
    methods = {r.config.method for r in earlier.records if r.config}
    assert {params["method"] for params in again} <= methods
    assert 2 <= len(again) <= 8


@pytest.mark.parametrize("sampler", ["auto", "tpe"])
def test_a_search_that_starts_from_an_earlier_one_has_its_front_at_once(
    earlier: SearchResult, sampler: str, tmp_path: Path
) -> None:
    kept = worth_keeping(earlier.records, OBJECTIVES, fake_problem())
    settings = SearchSettings(n_trials=8, sampler=sampler)
    runs = [
        run_search(settings, fake_problem("40%"), tmp_path / name, earlier=given)
        for name, given in (("with", kept), ("again", kept), ("without", []))
    ]
    assert [r.params for r in runs[0].records] == [r.params for r in runs[1].records]
    reference = np.array([0.0, 5.0])  # no accuracy, in more GFLOPs than the model has
    volumes = [
        hypervolume(losses([r.values for r in run.records if r.measured], OBJECTIVES), reference)
        for run in runs
    ]
    assert volumes[0] > volumes[2] or sampler == "auto"  # which is as far by then without
    limit = runs[0].budgets[0].limit
    assert all(r.costs.macs <= limit for r in runs[0].records if r.costs)


def test_methods_that_the_new_space_lacks_are_left_out(earlier: SearchResult) -> None:
    problem = fake_problem()
    space = dataclasses.replace(problem.space, methods=("ltp",))
    again = front_again(earlier.records, dataclasses.replace(problem, space=space), OBJECTIVES)
    assert {params["method"] for params in again} <= {"ltp"}


@pytest.mark.parametrize(
    "other",
    [
        {"subnet": SubnetSpec(144, (3,) * 12, (4.0,) * 12)},
        {"image_size": 112},
        {"number_format": "int8"},
        {"backbone": "deit"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_what_the_new_space_cannot_have_is_left_out(
    earlier: SearchResult, other: dict[str, Any]
) -> None:
    plain, *rest = [r for r in earlier.records if r.measured and r.config and r.layers]
    assert plain.config is not None
    strange = dataclasses.replace(plain, config=dataclasses.replace(plain.config, **other))
    kept = worth_keeping([strange, *rest], OBJECTIVES, fake_problem())
    assert [r.number for r in kept] == [r.number for r in rest]


def test_costs_on_another_device_are_predicted_anew(earlier: SearchResult) -> None:
    objectives = make_objectives(("quality", "latency"), "top1")

    def slow(config: CompressionConfig) -> dict[str, float]:
        return {"latency_ms": 100.0 + len(config.reductions)}

    records = [dataclasses.replace(r, predicted={"latency_ms": 1.0}) for r in earlier.records]
    same = worth_keeping(records, objectives, fake_problem(predict=slow))
    assert {r.values["latency_ms"] for r in same} == {1.0}
    anew = worth_keeping(without_device(records), objectives, fake_problem(predict=slow))
    assert anew
    assert all(r.config and r.predicted == slow(r.config) for r in anew)
    assert worth_keeping(without_device(records), objectives, fake_problem()) == []
