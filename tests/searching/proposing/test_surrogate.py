"""Sampler `auto`: it depends on results only, repeats nothing, and learns faster than chance."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from problems import FakeEvaluator, FakeTally, fake_problem, vit_facts

from autotok.config import CompressionConfig, Primitive
from autotok.searching.proposing.surrogate import Known, Surrogate
from autotok.searching.records.objective import make_objectives
from autotok.searching.records.pareto import hypervolume
from autotok.searching.records.record import TrialRecord
from autotok.searching.running.opening import open_search, resume_search, run_search
from autotok.searching.space.settings import FidelityPlan, SearchSettings
from autotok.searching.space.warm_starts import warm_starts


def trials(
    folder: Path, sampler: str, seed: int, count: int, *, objectives: tuple[str, ...] = ()
) -> list[TrialRecord]:
    """A search's first trials, each judged on 24 images."""
    problem = fake_problem("50%")
    settings = SearchSettings(
        seed=seed, sampler=sampler, **({"objectives": objectives} if objectives else {})
    )
    plan = FidelityPlan(24, 24, 24)
    search = open_search(settings, problem, folder / f"{sampler}{seed}.log", plan=plan)
    while search.evaluated < count:
        job = search.ask()
        assert job is not None
        search.advance(job.number, problem.evaluate(job.config, 0, 24), 0.0)
    search.proposals.close()
    return search.records


def shape(params: Mapping[str, Primitive]) -> dict[str, Primitive]:
    """A proposal without its cost."""
    return {k: v for k, v in params.items() if k not in ("budget_fraction", "mode")}


def area(records: list[TrialRecord]) -> float:
    """Of accuracy over chance and cost up to the uncompressed model's."""
    whole = fake_problem().costs.cost(CompressionConfig()).macs
    points = [(r.costs.macs / whole, -r.score.value) for r in records if r.costs and r.score]
    return hypervolume(np.array(points), np.array([1.0, -50.0]))


@pytest.mark.slow
def test_after_ten_trials_it_knows_more_than_tpe_from_the_same_start(tmp_path: Path) -> None:
    ours = [area(trials(tmp_path, "auto", seed, 10)) for seed in range(5)]
    theirs = [area(trials(tmp_path, "tpe", seed, 10)) for seed in range(5)]
    assert float(np.median(ours)) > float(np.median(theirs))


def test_proposals_depend_on_seed_and_results_only(tmp_path: Path) -> None:
    settings = SearchSettings(n_trials=12, sampler="auto", seed=4)
    whole = run_search(settings, fake_problem(), tmp_path / "whole")
    part = SearchSettings(n_trials=7, sampler="auto", seed=4)
    run_search(part, fake_problem(), tmp_path / "part")
    resumed = resume_search(fake_problem(), tmp_path / "part", n_trials=12)
    assert [r.params for r in resumed.records] == [r.params for r in whole.records]


def test_no_configuration_is_tried_twice(tmp_path: Path) -> None:
    records = trials(tmp_path, "auto", 0, 25)
    ids = [r.config.config_id for r in records if r.state == "complete" and r.config]
    assert len(ids) == len(set(ids)) == 25


@pytest.mark.parametrize("objectives", [("quality",), ("quality", "macs", "params")])
def test_any_objectives_are_learnt(tmp_path: Path, objectives: tuple[str, ...]) -> None:
    records = trials(tmp_path, "auto", 1, 10, objectives=objectives)
    assert sum(r.state == "complete" for r in records) == 10


def test_a_search_of_subnets_learns_too(tmp_path: Path) -> None:
    from test_subnets import joint_problem

    settings = SearchSettings(n_trials=10, sampler="auto", seed=2)
    result = run_search(settings, joint_problem(), tmp_path / "run")
    assert result.evaluated == 10
    assert result.best is not None


def test_where_cut_structures_are_useless_most_trials_keep_the_whole_one(tmp_path: Path) -> None:
    from test_subnets import STRUCTURE, joint_problem

    problem = joint_problem("60%")

    def evaluate(config: CompressionConfig, start: int, stop: int) -> FakeTally:
        if config.subnet is None:
            return problem.evaluate(config, start, stop)
        gone = 1.0 - STRUCTURE.facts(config.subnet).params / problem.facts.params
        return FakeTally(max(0.01, 0.8 - 2.0 * gone) * (stop - start), stop - start)

    settings = SearchSettings(n_trials=16, sampler="auto", seed=0)
    result = run_search(settings, dataclasses.replace(problem, evaluate=evaluate), tmp_path)
    whole = [r for r in result.records if r.config and r.config.subnet is None]
    assert len(whole) >= 8  # 4 while all structures looked the same to it
    costs = [r.costs.macs / problem.costs.cost(problem.whole).macs for r in whole if r.costs]
    assert min(costs) < 0.3  # and over the whole of the front
    assert max(costs) > 0.5


def test_fine_tunes_are_promoted_as_with_any_sampler(tmp_path: Path) -> None:
    evaluator = FakeEvaluator(vit_facts())
    problem = fake_problem(evaluate=evaluator, finetune=evaluator.finetune)
    settings = SearchSettings(n_trials=8, sampler="auto", retrain_trials=1)
    result = run_search(settings, problem, tmp_path / "run")
    assert sum(r.tuned is not None for r in result.records) == 1


def test_the_first_proposals_are_published_schedules_of_different_methods(tmp_path: Path) -> None:
    problem = fake_problem("50%")
    records = trials(tmp_path, "auto", 3, 5)
    assert len({r.params["method"] for r in records}) == 5
    published = [shape(p) for p in warm_starts(problem.space, problem.facts)]
    assert all(shape(r.params) in published for r in records)


def test_who_asks_while_others_still_run_is_told_something_else(tmp_path: Path) -> None:
    problem = fake_problem("50%")
    settings = SearchSettings(seed=0, sampler="auto")
    search = open_search(settings, problem, tmp_path / "study.log", plan=FidelityPlan(24, 24, 24))
    first = [search.ask() for _ in range(4)]
    assert len({job.config.method for job in first if job}) == 4
    for job in first:
        assert job is not None
        search.advance(job.number, problem.evaluate(job.config, 0, 24), 0.0)
    later = [search.ask() for _ in range(4)]
    costs = sorted(problem.costs.cost(job.config).macs for job in later if job)
    whole = problem.costs.cost(CompressionConfig()).macs
    assert len(costs) == 4
    assert costs[-1] - costs[0] > 0.02 * whole  # not four times the same place of the front
    search.proposals.close()


def test_one_that_has_just_been_opened_proposes_as_one_that_saw_it_all(tmp_path: Path) -> None:
    problem = fake_problem("50%")
    records = trials(tmp_path, "auto", 6, 24)
    objectives = make_objectives(("quality", "macs"), "top1")
    starts = warm_starts(problem.space, problem.facts)
    lived = Surrogate(problem, objectives, starts, seed=6)
    for count in range(1, 25):
        known = Known(records[:count], ceiling=85.0)
        proposed = [lived.propose(count, attempt, lambda k=known: k) for attempt in range(3)]
        if count in (1, 6, 13, 24):  # what it keeps in mind changes nothing
            opened = Surrogate(problem, objectives, starts, seed=6)
            again = [opened.propose(count, attempt, lambda k=known: k) for attempt in range(3)]
            assert again == proposed


def test_hardly_a_proposal_is_known_where_fine_tunes_are_searched_too(tmp_path: Path) -> None:
    evaluator = FakeEvaluator(vit_facts())
    problem = fake_problem(evaluate=evaluator, finetune=evaluator.finetune)
    settings = SearchSettings(sampler="auto")
    search = open_search(settings, problem, tmp_path / "study.log", plan=FidelityPlan(24, 24, 24))
    for _ in range(40):
        job = search.ask()
        assert job is not None
        search.advance(job.number, problem.evaluate(job.config, 0, 24), 0.0)
    assert sum(r.state == "duplicate" for r in search.records) <= 2
    search.proposals.close()


def test_a_shape_that_is_outside_at_its_cheapest_is_not_proposed_again() -> None:
    problem = fake_problem("50%")
    starts = list(warm_starts(problem.space, problem.facts))
    surrogate = Surrogate(problem, make_objectives(("top1", "macs"), "top1"), starts, 0)
    refused: list[TrialRecord] = []
    for number in range(12):
        params = surrogate.propose(number, 0, lambda: Known(refused))
        assert params is not None
        assert shape(params) not in [shape(r.params) for r in refused]
        refused.append(TrialRecord(number, "infeasible", None, params=params))


def test_a_method_that_always_fails_is_left_alone_soon(tmp_path: Path) -> None:
    """And the failures count as trials, not as configurations that were evaluated."""
    facts, told = vit_facts(), list[str]()
    judge = FakeEvaluator(facts)

    def evaluate(config: CompressionConfig, start: int, stop: int) -> FakeTally:
        if config.method == "tome":
            raise RuntimeError("no such operator here")
        return judge(config, start, stop)

    problem = fake_problem("50%", facts=facts, evaluate=evaluate)
    found = run_search(
        SearchSettings(n_trials=24, seed=0, min_trials=1), problem, tmp_path / "run",
        on_event=lambda event: told.append(str(event)),
    )  # fmt: skip
    failed = [r for r in found.records if r.state == "failed"]
    assert 1 <= len(failed) <= 3
    assert any(f"evaluated={found.evaluated}" in line for line in told if line.startswith("Done"))
