"""Objectives: what is asked for, in which direction."""

import pytest

from autotok.config import CompressionConfig, Reduction
from autotok.counting.cost import Cost
from autotok.errors import ConfigError, UnknownName
from autotok.searching.records.objective import losses, make_objectives
from autotok.searching.records.record import Score, TrialRecord

RECORD = TrialRecord(
    number=4,
    state="complete",
    config=CompressionConfig("tome", (Reduction(3, num_keep=98),)),
    layers=(3,),
    counts=(98,),
    costs=Cost(2_300_000_000, 2_100_000_000, 22_000_000),
    predicted={"latency_ms": 20.0},
    score=Score("top1", 80.0, 75.0, 85.0, 100, top1_pct=80.0),
    fidelity="few",
    params={"method": "tome", "budget_fraction": 1.0},
    tally={"hits": 80},
)


def test_losses_turn_every_objective_downwards_in_the_order_given() -> None:
    objectives = make_objectives(("macs_g", "quality"), "top1")
    assert losses([RECORD.values], objectives).tolist() == [[2.3, -80.0]]


def test_less_divergence_is_better() -> None:
    assert not make_objectives(("quality",), "kl")[0].maximise
    assert make_objectives(("quality",), "agreement")[0].label == "agreement_pct [%]"


def test_unknown_and_repeated_objectives_are_refused() -> None:
    with pytest.raises(UnknownName, match="did you mean 'latency'"):
        make_objectives(("latancy",), "top1")
    with pytest.raises(ConfigError, match="different names"):
        make_objectives(("quality", "quality"), "top1")
