"""Which parameters an objective hung on: of figures that hang on one, that one."""

import pytest

from autotok.config import CompressionConfig
from autotok.counting.cost import Cost
from autotok.searching.proposing.importance import FEWEST, FIRST, NUMBER, importances
from autotok.searching.records.objective import make_objectives
from autotok.searching.records.record import Score, TrialRecord

OBJECTIVES = make_objectives(("quality", "macs"), "top1")


def record(number: int, *, state: str = "complete") -> TrialRecord:
    """Quality by the method alone, cost by what was asked for alone; the first layer is noise."""
    method, fraction = ("tome", "evit", "topk")[number % 3], (number * 7 % 10) / 10
    value = {"tome": 80.0, "evit": 50.0, "topk": 20.0}[method]
    return TrialRecord(
        number=number,
        state=state,
        config=CompressionConfig(method=method),
        layers=(number % 4,),
        counts=(8,),
        costs=Cost(int(1e9 * (1.0 + fraction)), 10**9, 10**6),
        score=Score("top1", value, value - 1.0, value + 1.0, 100),
        params={"method": method, "budget_fraction": fraction, "mode": "plug-in", "own": number}
        if number
        else {"method": method, "budget_fraction": fraction, "mode": "plug-in"},
    )


def test_each_objective_hangs_on_what_it_was_made_of() -> None:
    found = importances([record(n) for n in range(30)], OBJECTIVES)
    assert found.num_trials == 30
    quality, cost = found.shares["top1_pct"], found.shares["macs_g"]
    assert next(iter(quality)) == "method"
    assert quality["method"] > 0.9
    assert next(iter(cost)) == "budget_fraction"
    assert cost["budget_fraction"] > 0.9
    assert sum(quality.values()) == pytest.approx(1.0)
    assert set(quality) == {"method", "budget_fraction", FIRST}  # the rest is alike, or not in all
    assert NUMBER not in quality


def test_the_same_trials_give_the_same_shares() -> None:
    records = [record(n) for n in range(20)]
    assert importances(records, OBJECTIVES[:1]) == importances(records, OBJECTIVES[:1])


def test_few_trials_tell_nothing_and_unfinished_ones_do_not_count() -> None:
    few = [record(n) for n in range(FEWEST - 1)]
    failed = [record(n, state="failed") for n in range(FEWEST, 3 * FEWEST)]
    found = importances([*few, *failed], OBJECTIVES)
    assert found.num_trials == FEWEST - 1
    assert not found.shares


def test_an_objective_that_is_the_same_in_all_has_no_shares() -> None:
    assert importances([record(0)] * FEWEST, OBJECTIVES).shares == {}
    alike = [record(3 * n) for n in range(FEWEST)]  # one method, so one quality
    assert importances(alike, OBJECTIVES).shares["top1_pct"] == {}
