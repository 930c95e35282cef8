"""Candidates are priced as repair prices them, and stay inside the budget."""

import numpy as np
import pytest
from problems import FakeEvaluator, fake_problem, vit_facts

from autotok.config import CompressionConfig
from autotok.searching.proposing.candidates import (
    BINS,
    Priced,
    nearby,
    priced_at,
    random_params,
    tokens_by_depth,
)
from autotok.searching.proposing.repair import Strengths, repair

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


def test_a_shape_is_priced_for_the_backbone_it_is_meant_for_each_time() -> None:
    narrow, rng = fake_problem("50%", facts=vit_facts(width=192)), np.random.default_rng(4)
    shapes = [random_params(PROBLEM, rng) for _ in range(12)]
    for problem in (PROBLEM, narrow, PROBLEM):
        whole = float(problem.costs.cost(CompressionConfig()).macs)
        found = [priced_at(params, [0.3, 1.0], problem, whole) for params in shapes]
        assert sum(map(bool, found)) > 6
        for params, priced in zip(shapes, found, strict=True):
            line = Strengths(problem.space.decode(params, problem.facts), problem)
            exact = line.metric("macs", np.linspace(0.0, 1.0, 25)) / whole
            assert {c.macs for c in priced} <= set(exact.tolist())


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
        words = [k for k in base.keys() & near.keys() if isinstance(base[k], str)]
        kept.append(np.mean([near[k] == base[k] for k in words]))
    assert 0.6 < float(np.mean(kept)) < 1.0


def test_half_of_the_numbers_that_a_nearby_proposal_keeps_move_by_a_small_step() -> None:
    rng = np.random.default_rng(5)
    base = next(p for p in (random_params(PROBLEM, rng) for _ in range(200)) if "taper" in p)
    near = [nearby(base, PROBLEM, rng) for _ in range(400)]
    steps = np.array(
        [np.log(float(p["taper"]) / float(base["taper"])) for p in near if "taper" in p]
    )
    assert 0.25 < float(np.mean(steps == 0.0)) < 0.5  # 3 in 8, and what is cut at an end
    assert 0.3 < float(np.mean((steps != 0.0) & (abs(steps) < 0.2 * np.log(4.0)))) < 0.7
    assert {p["taper"] for p in near if "taper" in p} > {base["taper"]}
    assert all(0.5 <= float(p["taper"]) <= 2.0 for p in near if "taper" in p)
    assert all(isinstance(p["first_layer"], int) for p in near if "first_layer" in p)


def test_where_fine_tunes_are_searched_too_candidates_are_plug_in_as_trials_are() -> None:
    problem = fake_problem("50%", finetune=FakeEvaluator(PROBLEM.facts).finetune)
    assert set(problem.space.mode) == {"plug-in", "retrain"}
    rng = np.random.default_rng(0)
    drawn = [random_params(problem, rng) for _ in range(20)]
    drawn += [nearby(params, problem, rng) for params in drawn]
    assert {params["mode"] for params in drawn} == {"plug-in"}
    assert not any(name.startswith("finetune.") for params in drawn for name in params)
