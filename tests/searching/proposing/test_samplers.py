"""Any Optuna sampler, or a factory of one, proposes: nothing in the package knows it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial
from problems import FakeEvaluator, fake_problem, vit_facts

from autotok.errors import ConfigError, UnknownName
from autotok.searching.proposing.proposals import Proposals
from autotok.searching.proposing.samplers import check_sampler, make_sampler
from autotok.searching.running.opening import resume_search, run_search
from autotok.searching.running.search_result import SearchResult
from autotok.searching.space.settings import SearchSettings

MINE = """
from optuna.samplers import RandomSampler

def make(seed):
    return RandomSampler(seed + 1)

def wrong(seed):
    return seed
"""


class LowFirst(BaseSampler):
    """Somebody's sampler: the lower end of every range, then at random."""

    def __init__(self, seed: int) -> None:
        self._random = RandomSampler(seed)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        low = getattr(param_distribution, "low", None)
        if low is not None and len(study.trials) < 20:
            return low
        return self._random.sample_independent(study, trial, param_name, param_distribution)


def proposed(result: SearchResult) -> list[dict[str, Any]]:
    return [dict(r.params) for r in result.records if r.origin == "sampler"]


def settings(sampler: object, seed: int = 0) -> SearchSettings:
    return SearchSettings(n_trials=22, sampler=sampler, seed=seed)


@pytest.mark.parametrize(
    "sampler",
    [
        LowFirst,
        lambda seed: LowFirst(seed),
        TPESampler(seed=1),
        TPESampler(),  # whose random states are made at their first use
        NSGAIISampler(population_size=4),
        "optuna.samplers:NSGAIISampler",
    ],
    ids=["class", "function", "object", "unseeded", "nested", "spelled"],
)
def test_a_sampler_from_outside_searches_and_proposes_by_seed_and_trial(
    sampler: object, tmp_path: Path
) -> None:
    first = run_search(settings(sampler), fake_problem(), tmp_path / "a")
    again = run_search(settings(sampler), fake_problem(), tmp_path / "b")
    other = run_search(settings(sampler, seed=1), fake_problem(), tmp_path / "c")
    assert first.evaluated == 22
    assert proposed(first)
    assert proposed(first) == proposed(again)
    assert proposed(first) != proposed(other)


def test_what_a_sampler_from_outside_chooses_is_what_is_tried(tmp_path: Path) -> None:
    result = run_search(settings(LowFirst), fake_problem(), tmp_path / "run")
    first = proposed(result)[0]
    assert first["budget_fraction"] == fake_problem().space.budget_fraction[0]


def test_the_grid_is_walked_where_configurations_may_be_fine_tuned_later(tmp_path: Path) -> None:
    """A trial's mode is fixed then, and everything else is the grid's."""
    problem = fake_problem(finetune=FakeEvaluator(vit_facts()).finetune)
    proposals = Proposals(settings("grid"), problem, tmp_path / "study.log")
    found = [proposals.propose(number, fixed={"mode": "plug-in"}) for number in range(40)]
    assert len({repr(params) for params in found}) == 40
    assert {params["mode"] for params in found} == {"plug-in"}
    steps = np.linspace(*problem.space.budget_fraction, 5).tolist()
    assert {params["budget_fraction"] for params in found} <= {*steps}
    tuned = proposals.propose(40, fixed={**found[0], "mode": "retrain"})
    assert found[0].items() - tuned.items() == {("mode", "plug-in")}


def test_a_sampler_object_is_never_changed() -> None:
    given = TPESampler(seed=7)
    before = given._rng.rng.get_state()[1].tolist()
    make_sampler(given, 3)._rng.rng.random()  # type: ignore[attr-defined]
    assert given._rng.rng.get_state()[1].tolist() == before


def test_the_same_seed_sets_every_random_state_of_a_sampler_object() -> None:
    one, two = (make_sampler(NSGAIISampler(), 5) for _ in range(2))
    for name in ("_rng", "_random_sampler"):
        a, b = (getattr(s, name) for s in (one, two))
        a, b = getattr(a, "_rng", a), getattr(b, "_rng", b)
        assert getattr(a, "rng", a).random() == getattr(b, "rng", b).random()


def test_a_run_keeps_the_spelling_of_its_sampler_and_is_resumed_with_it(tmp_path: Path) -> None:
    whole = run_search(settings(LowFirst), fake_problem(), tmp_path / "whole")
    part = dataclasses.replace(settings(LowFirst), n_trials=17)
    run_search(part, fake_problem(), tmp_path / "run")
    again = SearchSettings.from_dict(part.to_dict())
    assert again.sampler == f"{LowFirst.__module__}:LowFirst"
    resumed = resume_search(fake_problem(), tmp_path / "run", n_trials=22)
    assert proposed(resumed) == proposed(whole)


def test_a_run_of_a_nameless_sampler_is_resumed_only_with_it(tmp_path: Path) -> None:
    sampler = TPESampler(seed=1)
    whole = run_search(settings(sampler), fake_problem(), tmp_path / "whole")
    part = dataclasses.replace(settings(sampler), n_trials=17)
    run_search(part, fake_problem(), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"sampler '<TPESampler>' .* resume .* with sampler="):
        resume_search(fake_problem(), tmp_path / "run", n_trials=22)
    resumed = resume_search(fake_problem(), tmp_path / "run", n_trials=22, sampler=sampler)
    assert proposed(resumed) == proposed(whole)


def test_a_factory_is_imported_by_module_and_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_samplers.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    made = make_sampler("my_samplers:make", 4)
    assert isinstance(made, RandomSampler)
    assert made._rng.rng.random() == RandomSampler(5)._rng.rng.random()
    for text, words in {
        "my_samplers:wrong": "it gives a int, no optuna BaseSampler",
        "my_samplers:nothing": "has no attribute 'nothing'",
        "no_such_module:make": "No module named 'no_such_module'; is it installed, or in a folder",
        "my_samplers:__name__": "it is no factory",
    }.items():
        with pytest.raises(ConfigError, match=words):
            check_sampler(text)


def test_what_is_no_sampler_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="sampler is 3; give a name, module:factory"):
        SearchSettings(sampler=3)
    with pytest.raises(UnknownName, match="did you mean 'nsgaii'"):
        SearchSettings(sampler="nsga2")


class OneObjective(RandomSampler):
    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if len(study.directions) > 1:
            raise ValueError("multi-objective optimization is not supported")
        return {}


def test_a_sampler_that_cannot_take_the_objectives_is_told_before_the_first_trial() -> None:
    check_sampler(OneObjective, objectives=1)
    with pytest.raises(ConfigError, match=r"OneObjective' cannot be used: .* is not supported"):
        check_sampler(OneObjective, objectives=2)
