"""What predicted limits leave to a shape is believed from few predictions, and nearly right."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import pytest
from problems import fake_problem, vit_facts

from autotok.config import CompressionConfig
from autotok.searching.proposing.candidates import priced_at, random_params
from autotok.searching.proposing.features import Features
from autotok.searching.proposing.predicted_limits import PredictedLimits
from autotok.searching.proposing.repair import Strengths
from autotok.searching.space.budget import Budget
from autotok.searching.space.problem import ExactCosts, Problem
from autotok.searching.space.warm_starts import warm_starts

COSTS = ExactCosts(vit_facts())
WHOLE = float(COSTS.cost(CompressionConfig()).macs)


def latency(config: CompressionConfig) -> float:
    """Every reduction takes time, merging more of it."""
    own = 0.4 if config.method in ("tome", "pitome", "tofu") else 0.1
    return 5.0 + 20.0 * COSTS.cost(config).macs / WHOLE + own * len(config.reductions)


class Counting:
    """A prediction that counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, config: CompressionConfig) -> Mapping[str, float]:
        self.asked += 1
        time = latency(config)
        return {"latency_ms": time, "throughput_img_s": 1000.0 / time}


def limits(problem: Problem) -> PredictedLimits:
    starts = warm_starts(problem.space, problem.facts)
    return PredictedLimits(problem, Features(problem, starts, WHOLE), starts, WHOLE)


@pytest.mark.parametrize("budget", ["15ms", "60img/s"])
def test_the_cost_at_a_predicted_limit_is_known_within_a_few_per_cent(budget: str) -> None:
    predict = Counting()
    problem = fake_problem(budget, predict=predict)
    found = limits(problem)
    rng = np.random.default_rng(0)
    errors = []
    for params in (random_params(problem, rng) for _ in range(60)):
        line = Strengths(problem.space.decode(params, problem.facts), problem)
        most, asked = found.most(params), predict.asked
        strength = line.weakest_inside()
        predict.asked = asked
        if not isinstance(strength, Budget) and 0.0 < most < WHOLE:
            errors.append(abs(line.metric("macs", np.array([strength]))[0] - most) / WHOLE)
    assert len(errors) > 40
    assert float(np.median(errors)) < 0.03
    assert predict.asked <= len(warm_starts(problem.space, problem.facts)) + 2


def test_where_nothing_predicted_is_limited_nothing_is_predicted() -> None:
    predict = Counting()
    problem = fake_problem("50%", predict=predict)
    before = predict.asked
    rng = np.random.default_rng(0)
    assert limits(problem).most(random_params(problem, rng)) == np.inf
    assert predict.asked == before


def test_candidates_reach_to_the_believed_limit_and_no_further() -> None:
    problem = fake_problem("15ms", predict=Counting())
    found, rng = limits(problem), np.random.default_rng(2)
    for params in (random_params(problem, rng) for _ in range(10)):
        most = found.most(params)
        priced = priced_at(params, [0.0, 1.0], problem, WHOLE, most=most)
        assert all(c.macs * WHOLE <= most for c in priced)


def test_a_shape_whose_cheapest_is_outside_has_no_candidate() -> None:
    problem = fake_problem("15ms", predict=lambda config: {"latency_ms": latency(config) + 20.0})
    params = random_params(problem, np.random.default_rng(0))
    most = limits(problem).most(params)
    assert priced_at(params, [0.0, 1.0], problem, WHOLE, most=most) == []


def test_exact_limits_on_other_than_multiply_accumulates_are_kept() -> None:
    problem = fake_problem("50%")
    limit = 0.4 * COSTS.cost(CompressionConfig()).macs_noattn
    tighter = dataclasses.replace(problem, budgets=(Budget("macs_noattn", limit, "40%"),))
    rng = np.random.default_rng(4)
    for params in (random_params(problem, rng) for _ in range(20)):
        shape = problem.space.decode(params, problem.facts)
        for candidate in priced_at(params, [1.0], tighter, WHOLE):
            line = Strengths(shape, tighter)
            strength = line.weakest("macs", candidate.macs * WHOLE + 1.0)
            assert strength is not None
            assert line.metric("macs_noattn", np.array([strength]))[0] <= 1.02 * limit
