"""What a judgement makes of a record: mean costs, thresholds, what is outside a budget by them."""

import dataclasses

from autotok.config import CompressionConfig, Reduction
from autotok.counting.cost import Cost
from autotok.evaluation.accuracy import Tally
from autotok.searching.records.record import TrialRecord
from autotok.searching.running.judged_record import judged
from autotok.searching.space.budget import Budget

DRAFT = CompressionConfig("ltmp", (Reduction(1, num_keep=8),))
FOUND = CompressionConfig("ltmp", (Reduction(1, num_keep=8, options={"threshold": 0.25}),))
RECORD = TrialRecord(3, "running", DRAFT, costs=Cost(1000, 900, 70), predicted={"latency_ms": 2.0})


def tally(*macs: int, config: CompressionConfig = FOUND) -> Tally:
    return Tally(
        "top1", len(macs), len(macs), 1, hits="1" * len(macs), macs=macs,
        macs_noattn=sum(macs) - 50 * len(macs), judged=config.canonical,
    )  # fmt: skip


def test_costs_are_the_mean_over_the_images_and_the_nominal_ones_stand_beside_them() -> None:
    found = judged(RECORD, tally(1000, 1200), [Budget("macs", 1100, "1100")])
    assert found.costs == Cost(1100, 1050, 70)
    assert found.feasible
    assert found.violation == 0.0
    row = found.row()
    assert (row["macs"], row["macs_mean"], row["macs_std"], row["macs_nominal"]) == (
        1100, 1100, 100, 1000,
    )  # fmt: skip
    assert found.values["macs_g"] == 1100 / 1e9
    assert row["latency_is"] == "predicted, unchecked, for nominal counts"
    assert judged(found, tally(1000, 1200, 1000, 1000), []).macs_nominal == 1000


def test_a_mean_outside_the_budget_is_infeasible_and_says_so() -> None:
    found = judged(RECORD, tally(1000, 1202), [Budget("macs", 1100, "60%")])
    assert (found.state, found.feasible, found.measured) == ("infeasible", False, False)
    assert found.evaluated
    assert found.violation > 0.0
    assert found.reason == (
        "over the budget of 60%: it costs 1,101 multiply-accumulates per image, attention included,"
        " mean over 2 images (standard deviation 101), where 1,100 are allowed"
    )
    inside = judged(RECORD, tally(1000, 1202), [Budget("macs_noattn", 1100, "x")])
    assert inside.feasible
    outside = judged(RECORD, tally(1000, 1202), [Budget("macs_noattn", 1050, "x")])
    assert "attention products left out" in outside.reason


def test_the_configuration_is_the_one_that_ran_and_the_draft_is_remembered() -> None:
    found = judged(RECORD, tally(1000), [])
    assert found.config == FOUND
    assert found.drafted == DRAFT.config_id
    assert TrialRecord.from_dict(found.to_dict()) == dataclasses.replace(found)
    assert judged(found, tally(1000, 1000), []).drafted == DRAFT.config_id
