"""Records and objectives: everything survives JSON."""

import json

import pytest

from autotok.config import CompressionConfig, Reduction
from autotok.errors import ConfigError, UnknownName
from autotok.searching.objective import losses, make_objectives
from autotok.searching.record import Costs, Score, TrialRecord
from autotok.searching.settings import SearchSettings

RECORD = TrialRecord(
    number=4,
    state="complete",
    config=CompressionConfig("tome", (Reduction(3, num_keep=98),)),
    layers=(3,),
    counts=(98,),
    costs=Costs(2_300_000_000, 2_100_000_000, 22_000_000),
    predicted={"latency_ms": 20.0},
    score=Score("top1", 80.0, 75.0, 85.0, 100, top1_pct=80.0),
    fidelity="few",
    params={"method": "tome", "budget_fraction": 1.0},
    tally={"hits": 80},
)


def test_a_record_survives_json() -> None:
    assert TrialRecord.from_dict(json.loads(json.dumps(RECORD.to_dict()))) == RECORD


def test_a_row_names_units_and_counts() -> None:
    row = RECORD.row()
    assert (row["macs_g"], row["flops2x_g"], row["macs_noattn_g"]) == (2.3, 4.6, 2.1)
    assert (row["params_m"], row["latency_ms"], row["top1_pct"]) == (22.0, 20.0, 80.0)
    assert (row["layers"], row["counts"], row["fidelity"]) == ("3", "98", "few")


def test_losses_turn_every_objective_downwards_in_the_order_given() -> None:
    objectives = make_objectives(("macs_g", "quality"), "top1")
    assert losses([RECORD.values], objectives).tolist() == [[2.3, -80.0]]


def test_less_divergence_is_better() -> None:
    assert not make_objectives(("quality",), "kl")[0].maximise
    assert make_objectives(("quality",), "agreement")[0].label == "agreement_pct [%]"


def test_unknown_and_repeated_objectives_are_refused() -> None:
    with pytest.raises(UnknownName, match="did you mean 'latency_ms'"):
        make_objectives(("latency",), "top1")
    with pytest.raises(ConfigError, match="different names"):
        make_objectives(("quality", "quality"), "top1")


def test_settings_refuse_nonsense_and_unknown_keys() -> None:
    assert SearchSettings.from_dict(SearchSettings(seed=3).to_dict()).seed == 3
    with pytest.raises(ConfigError, match="n_trials is 0"):
        SearchSettings(n_trials=0)
    with pytest.raises(ConfigError, match="did you mean 'n_trials'"):
        SearchSettings.from_dict({"n_trial": 3})
    with pytest.raises(ConfigError, match="front_size is 1"):
        SearchSettings(front_size=1)
