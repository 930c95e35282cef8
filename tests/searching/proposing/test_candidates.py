"""Candidates are priced as repair prices them, and stay inside the budget."""

import numpy as np
import pytest
from problems import fake_problem

from autotok.config import CompressionConfig
from autotok.searching.proposing.candidates import (
    BINS,
    Priced,
    nearby,
    priced_at,
    random_params,
    tokens_by_depth,
)
from autotok.searching.proposing.repair import repair

PROBLEM = fake_problem("50%")
WHOLE = float(PROBLEM.costs.cost(CompressionConfig()).macs)


def candidates(count: int = 40) -> list[Priced]:
    rng = np.random.default_rng(3)
    shapes = [random_params(PROBLEM, rng) for _ in range(count)]
    return [c for params in shapes for c in priced_at(params, [0.0, 0.5, 1.0], PROBLEM, WHOLE)]


def test_what_repair_makes_of_a_candidate_costs_about_what_it_was_priced_at() -> None:
    errors = []
    for candidate in candidates():
        shape = PROBLEM.space.decode(candidate.params, PROBLEM.facts)
        repaired = repair(shape, float(candidate.params["budget_fraction"]), PROBLEM)
        assert repaired.costs is not None
        assert repaired.violation <= 0.0
        errors.append(abs(repaired.costs.macs / WHOLE - candidate.macs))
    assert len(errors) > 60
    assert float(np.median(errors)) < 0.01


def test_every_candidate_is_inside_the_budget() -> None:
    assert max(c.macs for c in candidates()) <= 0.5


def test_the_profile_is_the_share_of_tokens_left_by_depth() -> None:
    found = tokens_by_depth([2, 6], [98, 49], PROBLEM.facts)
    assert len(found) == BINS == PROBLEM.facts.num_blocks
    assert found == pytest.approx([1.0] * 2 + [0.5] * 4 + [0.25] * 6)


def test_a_nearby_proposal_keeps_most_answers() -> None:
    rng = np.random.default_rng(1)
    base = random_params(PROBLEM, rng)
    kept = []
    for _ in range(50):
        near = nearby(base, PROBLEM, rng)
        shared = base.keys() & near.keys()
        kept.append(np.mean([near[k] == base[k] for k in shared]))
    assert 0.6 < float(np.mean(kept)) < 1.0
