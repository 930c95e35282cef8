"""What was tried, told from what is new."""

from autotok.searching.proposing.tried import Named, TriedProposals
from autotok.searching.records.record import TrialRecord

A = {"method": "tome", "mode": "plug-in", "budget_fraction": 0.5}


def record(number: int, params: dict, state: str = "complete") -> TrialRecord:
    return TrialRecord(number, state, None, params=params)


def test_a_proposal_is_new_until_a_trial_had_it_and_retraining_makes_no_other() -> None:
    tried = TriedProposals()
    assert tried.is_new(Named(A))
    tried.take_in([record(3, A)])
    assert not tried.is_new(Named({**A, "mode": "retrain"}))
    assert tried.is_new(Named({**A, "budget_fraction": 0.6}))


def test_a_shape_outside_is_so_at_any_cost() -> None:
    tried = TriedProposals()
    tried.take_in([record(3, A, "infeasible")])
    assert not tried.is_new(Named({**A, "budget_fraction": 0.6}))
    assert tried.is_new(Named({**A, "method": "evit"}))


def test_only_trials_before_a_number_count_in_whatever_order_they_finish() -> None:
    tried = TriedProposals()
    tried.take_in([record(5, A, "infeasible")])
    assert tried.is_new(Named(A), 4)
    tried.take_in([record(2, A), record(5, A, "infeasible")])
    assert not tried.is_new(Named(A), 4)
    assert tried.is_new(Named({**A, "budget_fraction": 0.6}), 4)
