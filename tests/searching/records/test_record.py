"""Records and objectives: everything survives JSON."""

import dataclasses
import json

import pytest

from autotok.config import CompressionConfig, Reduction
from autotok.counting.cost import Cost
from autotok.devices.measurement import Measurement
from autotok.errors import ConfigError, UsageError
from autotok.pruned_spec import PrunedSpec
from autotok.searching.records.record import Score, TrialRecord, as_told

SCORE = Score("top1", 80.0, 75.0, 85.0, 100, top1_pct=80.0)
RECORD = TrialRecord(
    number=4,
    state="complete",
    config=CompressionConfig("tome", (Reduction(3, num_keep=98),)),
    layers=(3,),
    counts=(98,),
    costs=Cost(2_300_000_000, 2_100_000_000, 22_000_000),
    predicted={"latency_ms": 20.0},
    score=SCORE,
    fidelity="few",
    params={"method": "tome", "budget_fraction": 1.0},
    tally={"hits": 80},
)
READING = Measurement(
    latency_ms=25.0, p90_ms=26.0, mad_ms=0.5, runs=15, verdict="steady",
    reference_latency_ms=50.0, speedup=2.0, peak_memory_mb=310.0, memory_source="a made-up counter",
    device="a board", runtime="none", dtype="float32", batch=1, image_shape=(3, 8, 8), threads=1,
    when="2026-01-01T00:00:00+00:00", energy_mj=80.0,
)  # fmt: skip


def test_a_record_survives_json() -> None:
    assert TrialRecord.from_dict(json.loads(json.dumps(RECORD.to_dict()))) == RECORD


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("number", "4", "record: number: must be a whole number, got '4'"),
        ("costs", {"macs": 1, "macs_noattn": 1}, "record: costs: lacks the key 'params'"),
        ("layers", 3, "record: layers: must be a list, got 3"),
        ("feasible", "no", "record: feasible: must be true or false"),
        ("config", {"method": 3}, "record: config.method: must be text, got 3"),
        ("score", {**dataclasses.asdict(SCORE), "low": [1]}, "record: score.low: must be a"),
        ("score", {**dataclasses.asdict(SCORE), "metric": "luck"}, "metric 'luck' is unkno"),
        ("predicted", {"latency_ms": None}, "record: predicted.latency_ms: must be a number"),
    ],
)
def test_a_damaged_value_of_a_record_is_one_sentence_that_names_it(
    key: str, value: object, words: str
) -> None:
    data = {**RECORD.to_dict(), key: value, "of_a_later_version": 1}
    with pytest.raises(UsageError) as caught:
        TrialRecord.from_json(json.dumps(data), "record")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="record: is not valid JSON"):
        TrialRecord.from_json(json.dumps(data)[:-9], "record")


def test_a_row_names_units_and_counts() -> None:
    row = RECORD.row()
    assert (row["macs_g"], row["flops2x_g"], row["macs_noattn_g"]) == (2.3, 4.6, 2.1)
    assert (row["params_m"], row["latency_ms"], row["top1_pct"]) == (22.0, 20.0, 80.0)
    assert (row["layers"], row["counts"], row["fidelity"]) == ("3", "98", "few")


def test_details_name_the_structure() -> None:
    pruned = PrunedSpec((0, 2), ((0, 1), (2,)), ("f" * 8 + "0" * 40,) * 2)
    config = CompressionConfig("none", subnet=pruned, number_format="int8", image_size=24)
    record = TrialRecord(1, "complete", config)
    assert record.details == "2 blocks, heads 1-2, MLP 32, int8, 24 px"


def test_a_row_says_what_its_latency_and_memory_are() -> None:
    assert RECORD.row()["latency_is"] == "predicted, unchecked"
    assert "memory_is" not in RECORD.row()
    checked = {"latency_ms": 20.0, "latency_error_pct": 4.06, "peak_memory_mb": 300.0}
    row = dataclasses.replace(RECORD, predicted=checked).row()
    assert row["latency_is"] == "predicted, checked to 4.1 %"
    assert row["memory_is"] == "predicted, unchecked"
    reading = READING.to_dict()
    measured = dataclasses.replace(RECORD, predicted=checked, reading=reading)
    row = measured.row()
    assert (row["latency_is"], row["memory_is"]) == ("measured", "measured")
    assert (row["latency_ms"], row["predicted_latency_ms"]) == (25.0, 20.0)
    assert (row["measured_device"], row["energy_mj"]) == ("a board", 80.0)
    assert "measured_host_ms" not in row
    assert measured.values["latency_ms"] == 25.0
    assert TrialRecord.from_dict(json.loads(json.dumps(measured.to_dict()))) == measured


def test_a_corrected_prediction_says_so_and_not_the_target_s_error() -> None:
    predicted = {"latency_ms": 20.0, "latency_error_pct": 4.06, "latency_correction": 0.04}
    predicted |= {"peak_memory_mb": 300.0, "memory_error_pct": 2.0, "memory_correction": 1.0}
    row = dataclasses.replace(RECORD, predicted=predicted).row()
    assert row["latency_is"] == "predicted, corrected by what was measured"
    assert row["memory_is"] == "predicted, checked to 2.0 %"
    assert "latency_error_pct" not in row
    assert row["memory_error_pct"] == 2.0
    assert (row["latency_correction"], as_told(predicted).get("latency_error_pct")) == (0.04, None)
