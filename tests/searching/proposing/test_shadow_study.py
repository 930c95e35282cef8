"""Samplers see finished trials, in logical order, once, and not more than they can look at."""

import dataclasses
from pathlib import Path

import optuna
import pytest
from evidence import hits, record
from optuna.trial import TrialState, create_trial
from problems import fake_problem

from autotok.searching.proposing.proposals import Proposals
from autotok.searching.proposing.samplers import make_sampler
from autotok.searching.proposing.shadow_study import ShadowStudy, distribution, suggest
from autotok.searching.records.objective import make_objectives
from autotok.searching.records.pareto import Front
from autotok.searching.space.parameters import Parameter
from autotok.searching.space.settings import SearchSettings

OBJECTIVES = make_objectives(("top1", "macs"), "top1")
DIRECTIONS = [optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE]


def test_samplers_see_every_constraint_once(tmp_path: Path) -> None:
    notes = Proposals(SearchSettings(), fake_problem(), tmp_path / "study.log")
    done = record(0, "tome", 1.0, hits(0.8))
    params = notes.propose(0)
    done = dataclasses.replace(done, params=params)
    notes.start(done, constraints={"budget": -0.25})
    notes.tell(done)
    (trial,) = notes._shadow.visible(None, notes.front)
    assert trial.constraints == {"budget": -0.25}
    (stored,) = notes._study.get_trials()
    assert stored.system_attrs["constraints"] == [-0.25]


def shadow(count: int, failed: int) -> ShadowStudy:
    """Trials that come in reverse, one of which failed."""
    found = ShadowStudy(DIRECTIONS)
    for number in reversed(range(count)):
        state = TrialState.FAIL if number == failed else TrialState.COMPLETE
        values = None if number == failed else [float(number), 1.0]
        found.add(number, create_trial(state=state, values=values, user_attrs={"number": number}))
    return found


def test_of_many_trials_the_front_and_the_latest_are_seen_in_their_order() -> None:
    front = Front(OBJECTIVES, [record(3, "tome", 1.0, hits(0.9))])
    study = shadow(10, failed=8)
    every = [trial.values[0] for trial in study.visible(None, front)]
    assert every == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 9.0]
    assert [t.values[0] for t in study.visible(4, front)] == [3.0, 6.0, 7.0, 9.0]


def test_nothing_of_a_trial_but_what_samplers_read_is_handed_on() -> None:
    study = shadow(3, failed=1).study(make_sampler("nsgaii", 0), Front(OBJECTIVES))
    assert [trial.user_attrs for trial in study.trials] == [{}, {}]
    assert not shadow(3, failed=1).study(make_sampler("random", 0), Front(OBJECTIVES)).trials


@pytest.mark.parametrize(
    "parameter",
    [
        Parameter("method", ("tome", "evit")),
        Parameter("layer", low=2, high=5, integer=True),
        Parameter("lr", low=1e-5, high=1e-3, log=True),
    ],
)
def test_what_is_suggested_is_of_the_range_as_it_is_kept(parameter: Parameter) -> None:
    study = shadow(2, failed=1).study(make_sampler("random", 3), Front(OBJECTIVES))
    trial = study.ask()
    value = suggest(trial, parameter)
    kept = distribution(parameter)
    assert trial.distributions[parameter.name] == kept
    assert kept._contains(kept.to_internal_repr(value))
