"""Proposals as trials: what is repaired once and what anew."""

from pathlib import Path

import pytest
from problems import fake_problem

from autotok.searching.proposing import trial_builder
from autotok.searching.proposing.proposals import Proposals
from autotok.searching.proposing.repair import Repaired, repair
from autotok.searching.proposing.trial_builder import TrialBuilder
from autotok.searching.space.problem import Problem
from autotok.searching.space.settings import FidelityPlan, SearchSettings
from autotok.searching.space.shape import Shape


@pytest.mark.parametrize("predicted", [False, True])
def test_a_proposal_that_comes_again_is_repaired_again_only_where_predictions_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, predicted: bool
) -> None:
    asked = []

    def noted(shape: Shape, fraction: float, problem: Problem) -> Repaired:
        asked.append(shape)
        return repair(shape, fraction, problem)

    monkeypatch.setattr(trial_builder, "repair", noted)
    settings = SearchSettings(n_trials=20, sampler="random")
    problem = fake_problem(predict=(lambda config: {"latency_ms": 1.0}) if predicted else None)
    proposals = Proposals(settings, problem, tmp_path / "study.log")
    builder = TrialBuilder(settings, problem, proposals)
    plan = FidelityPlan(4, 8, 8)
    first, again = (builder.proposal(500, plan) for _ in range(2))
    proposals.close()
    assert first == again
    assert len(asked) == 1 + predicted
