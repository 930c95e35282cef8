"""Budgets that nothing meets are told before the search, with the nearest that can be met."""

from collections.abc import Mapping

import pytest
from problems import fake_problem, vit_facts

from autotok.config import CompressionConfig
from autotok.counting.macs import cost
from autotok.errors import InfeasibleBudget
from autotok.metrics import METRICS
from autotok.searching.proposing.feasible import check_budgets
from autotok.searching.space.budget import parse_budget

FACTS = vit_facts()


def latency(config: CompressionConfig) -> Mapping[str, float]:
    macs = cost(FACTS, config).macs
    return {"latency_ms": 2.0 + macs / 1e8, "peak_memory_mb": 100.0 + macs / 1e8}


def test_a_hopeless_budget_names_the_nearest_feasible_one() -> None:
    problem = fake_problem("10MFLOPs")
    with pytest.raises(InfeasibleBudget, match=r"cannot be met.*ask for 0\.\d+GMACs or more"):
        check_budgets(problem)
    check_budgets(fake_problem("5%"))


def test_a_hopeless_latency_names_the_nearest_feasible_one() -> None:
    with pytest.raises(InfeasibleBudget, match=r"ask for \d\.\d+ms or more"):
        check_budgets(fake_problem("1ms", predict=latency))


def test_too_few_parameters_are_hopeless_whatever_the_tokens() -> None:
    with pytest.raises(InfeasibleBudget, match=r"21\.24Mparams or more"):
        check_budgets(fake_problem("2Mparams"))


@pytest.mark.parametrize("value", [3.82944e-4, 0.149, 1.0, 2.30001, 382944.0, 99.996])
def test_a_suggested_budget_is_never_below_what_is_needed(value: float) -> None:
    suggested = parse_budget(METRICS["latency_ms"].nearest_budget(value)).amount
    assert value <= suggested <= 1.001 * value
    suggested = parse_budget(METRICS["throughput_img_s"].nearest_budget(value)).amount
    assert 0.999 * value <= suggested <= value
