"""A new search starts from the front of an earlier one, at the costs that it allows."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from problems import fake_problem

from autotok.searching.proposing.earlier import front_again, worth_keeping
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
    kept = worth_keeping(earlier.records, OBJECTIVES, "top1")
    assert all(r.tally is None for r in kept)
    assert worth_keeping(earlier.records, OBJECTIVES, "kl") == []
    again = front_again(kept, problem, OBJECTIVES)
    methods = {r.config.method for r in earlier.records if r.config}
    assert {params["method"] for params in again} <= methods
    assert 2 <= len(again) <= 8


@pytest.mark.parametrize("sampler", ["auto", "tpe"])
def test_a_search_that_starts_from_an_earlier_one_has_its_front_at_once(
    earlier: SearchResult, sampler: str, tmp_path: Path
) -> None:
    kept = worth_keeping(earlier.records, OBJECTIVES, "top1")
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
