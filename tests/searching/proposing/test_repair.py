"""Repair: exact integer counts, the asked share of the budget, never beyond a limit."""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
from problems import fake_problem, vit_facts
from test_search_space import random_chooser

from autotok.compression.schedule import realise
from autotok.config import CompressionConfig
from autotok.counting.macs import cost
from autotok.searching.proposing.repair import match_cost, repair
from autotok.searching.space.shape import Shape

FACTS = vit_facts()
STAGES = Shape("topk", (3, 6, 9), (1 / 3, 2 / 3, 1.0))


def test_the_limit_is_met_from_below_by_less_than_one_token_a_layer() -> None:
    problem = fake_problem("50%")
    limit = problem.budgets[0].limit
    found = repair(STAGES, 1.0, problem)
    assert found.costs is not None
    assert found.costs.macs <= limit
    looser = [c + 1 for c in found.counts]
    config = Shape.config(STAGES, np.array(looser), FACTS)
    assert cost(FACTS, config).macs > limit


def test_every_repaired_proposal_is_inside_the_budget_and_realises() -> None:
    problem = fake_problem("45%")
    feasible = 0
    for seed in range(120):
        params = problem.space.walk(random_chooser(seed), FACTS)
        shape = problem.space.decode(params, FACTS)
        found = repair(shape, float(params["budget_fraction"]), problem)
        if found.config is None:
            assert found.violation > 0.0
            assert "at its cheapest" in found.reason
            continue
        feasible += 1
        realise(found.config, FACTS)  # raises where a method cannot reach a count
        assert cost(FACTS, found.config).macs <= problem.budgets[0].limit
        assert all(r.num_keep is not None for r in found.config.reductions)
    assert feasible > 70


def test_fractions_reach_the_whole_front_from_cheapest_to_the_limit() -> None:
    problem = fake_problem("50%")
    limit = problem.budgets[0].limit
    macs = [repair(STAGES, f, problem).costs.macs for f in (0.0, 0.25, 0.5, 0.75, 1.0)]  # type: ignore[union-attr]
    assert macs == sorted(macs)
    assert macs[0] == cost(FACTS, STAGES.config(np.array([1, 1, 1]), FACTS)).macs
    for fraction, found in zip((0.25, 0.5, 0.75, 1.0), macs[1:], strict=True):
        target = macs[0] + fraction * (limit - macs[0])
        assert target - 0.02 * limit < found <= target + 0.001 * limit


def test_the_shape_is_kept() -> None:
    found = repair(STAGES, 1.0, fake_problem("50%"))
    ratios = [b / a for a, b in zip((196, *found.counts), found.counts, strict=False)]
    assert max(ratios) - min(ratios) < 0.02


def test_matching_methods_never_remove_more_than_half() -> None:
    shape = Shape("tome", tuple(range(12)), tuple((i + 1) / 12 for i in range(12)), "linear")
    found = repair(shape, 0.0, fake_problem("60%"))
    entering = 196
    for count in found.counts:
        assert count >= math.ceil(entering / 2)
        entering = count
    assert found.counts[-1] == 1


def test_an_infeasible_shape_says_what_it_reaches_and_its_range() -> None:
    found = repair(Shape("tome", (10,), (1.0,)), 1.0, fake_problem("50%"))
    assert not found.feasible
    assert found.violation > 0.5
    assert "of 196 tokens entering layer 10 it can keep 98 to 196" in found.reason


def test_layers_with_nothing_to_remove_are_left_out() -> None:
    shape = Shape("topk", (2, 5, 8), (0.0, 0.5, 1.0))
    found = repair(shape, 1.0, fake_problem("60%"))
    assert found.layers == (5, 8)


def latency(config: CompressionConfig) -> Mapping[str, float]:
    macs = cost(FACTS, config).macs
    return {"latency_ms": 2.0 + macs / 1e8, "peak_memory_mb": 100.0 + macs / 1e8}


def test_a_latency_budget_is_met_through_the_predictor() -> None:
    problem = fake_problem("20ms", predict=latency)
    asked: list[str] = []

    def counted(config: CompressionConfig) -> Mapping[str, float]:
        asked.append(config.config_id)
        return latency(config)

    found = repair(STAGES, 1.0, dataclasses.replace(problem, predict=counted))
    assert len(asked) <= 6  # a prediction costs a trace of the model
    assert 19.5 < found.predicted["latency_ms"] <= 20.0


def test_several_budgets_all_hold() -> None:
    problem = fake_problem("50%, 18ms, 115MB, 30Mparams", predict=latency)
    found = repair(STAGES, 1.0, problem)
    assert found.costs is not None
    assert found.predicted["peak_memory_mb"] <= 115.0
    assert found.predicted["latency_ms"] <= 18.0
    assert found.costs.macs <= problem.budgets[0].limit


def test_the_convention_without_attention_is_solved_exactly() -> None:
    problem = fake_problem("50%")
    limit = 2.0e9
    budget = dataclasses.replace(problem.budgets[0], metric="macs_noattn", limit=limit)
    found = repair(STAGES, 1.0, dataclasses.replace(problem, budgets=(budget,)))
    assert found.costs is not None
    assert 0.97 * limit < found.costs.macs_noattn <= limit


def test_a_generous_budget_leaves_the_model_alone() -> None:
    found = repair(STAGES, 1.0, fake_problem("100%"))
    assert found.config == CompressionConfig()


def test_matching_a_cost_gives_the_most_expensive_within_it() -> None:
    problem = fake_problem("50%")
    best = repair(STAGES, 1.0, problem)
    assert best.costs is not None
    control = match_cost(dataclasses.replace(STAGES, method="random"), best.costs.macs, problem)
    assert control is not None
    assert control.costs is not None
    assert 0.97 * best.costs.macs < control.costs.macs <= best.costs.macs


def test_a_control_is_inside_every_budget_not_only_as_cheap_as_the_best() -> None:
    def predict(config: CompressionConfig) -> dict[str, float]:
        macs = fake_problem().costs.cost(config).macs / 1e9
        heavy = 3.0 if config.method == "random" else 1.0
        return {"latency_ms": 10.0 * macs, "peak_memory_mb": 30.0 * heavy * macs}

    problem = fake_problem("80%, 150MB", predict=predict)
    best = repair(STAGES, 1.0, problem)
    assert best.costs is not None
    control = match_cost(dataclasses.replace(STAGES, method="random"), best.costs.macs, problem)
    assert control is not None
    assert control.predicted["peak_memory_mb"] <= 150.0
    assert control.violation <= 0.0
    nothing = fake_problem("80%, 20MB", predict=predict)
    assert match_cost(dataclasses.replace(STAGES, method="random"), 10**12, nothing) is None
