"""What a run says of its latency and memory figures."""

from autotok.metrics import metric_of
from autotok.report.sources import (
    Sources,
    device_notes,
    device_sentences,
    predicted_for,
    sources_of,
)
from autotok.searching.records.record import TrialRecord

MEASURING = {
    "device": "ssh://me@board (Jetson Xavier NX)",
    "runtime": "onnxruntime 1.18",
    "dtype": "float32",
    "num_measured": 7,
    "ratios": {"latency_ms": [1.2, 1.3, 1.4], "peak_memory_mb": [1.01]},
    "stated_error_pct": {"latency_ms": None, "peak_memory_mb": 5.0},
    "corrections": {"latency_ms": 1.3},
    "failures": ["device 'ssh://me@board' ran out of memory with this model"],
}


def test_headings_say_how_well_each_figure_was_checked() -> None:
    predictions = [{}, {"latency_ms": 20.0, "peak_memory_mb": 9.0, "memory_error_pct": 0.52}]
    sources = Sources.of("jetson-nx", predictions, {**MEASURING, "corrections": {}})
    assert sources.latency == "predicted for jetson-nx, unchecked"
    assert sources.memory == "predicted for jetson-nx, checked to 0.5 %"
    assert sources.measured == "measured on ssh://me@board"
    counted = Sources.of("nx", predictions, {}, points={"latency": 3, "memory": 1})
    assert counted.latency == "predicted for nx, unchecked"
    assert counted.memory == "predicted for nx, checked to 0.5 % at 1 point"
    assert Sources.of(None, predictions, {}) == Sources()


def test_a_run_s_predictions_name_target_runtime_format_and_points() -> None:
    record = TrialRecord(0, "complete", None, predicted={"latency_error_pct": 1.3})
    assert sources_of("jetson-nx", [record], {}).latency == (
        "predicted for jetson-nx, PyTorch eager float32, checked to 1.3 % at 3 points"
    )
    assert sources_of(None, [record], {}).latency == "predicted"
    told = predicted_for("jetson-nx")
    assert told is not None
    assert (told["target"], told["of"]) == ("jetson-nx", "PyTorch eager float32")
    assert told["checked"].startswith("target jetson-nx, PyTorch eager float32; latency errors")
    assert told["batch"] == 1
    assert predicted_for(None) is None


def test_without_a_device_all_are_predictions_and_without_a_target_there_are_none() -> None:
    assert device_sentences(None) == []
    assert device_sentences("target x never checked: an estimate") == [
        "Latency and memory are predictions, not measurements: target x never checked: an estimate."
    ]


def test_predictions_that_were_off_are_said_to_be_and_the_correction_is_named() -> None:
    lines = device_sentences("target x", MEASURING)
    assert lines == [
        "7 configurations were measured on ssh://me@board (Jetson Xavier NX), onnxruntime 1.18,"
        " float32: rows marked 'measured'; the other figures are predictions: target x.",
        "PREDICTIONS WERE OFF: measured latency is 1.30 times the predicted (1.20 to 1.40 over 3),"
        " beyond the 10 % allowed a target that was never checked; the predictions of this run were"
        " multiplied by 1.30.",
        "Measured peak memory is 1.01 times the predicted, within the 5.0 % that the target states:"
        " nothing was corrected.",
        "1 configuration could not be measured: device 'ssh://me@board' ran out of memory with this"
        " model.",
    ]


def test_a_device_that_could_measure_nothing_is_told() -> None:
    lines = device_sentences(None, {"num_measured": 0, "ratios": {}, "failures": ["a", "b"]})
    assert lines == [
        "Nothing could be measured on the device.",
        "2 configurations could not be measured: a.",
    ]


def test_a_number_format_that_is_no_faster_is_said_to_be() -> None:
    told = {"num_measured": 4, "over_float32": {"int8": [0.9, 0.8], "float16": [1.5]}}
    assert device_sentences(None, told)[1:] == [
        "int8 files took 0.90 times the latency of float32 ones, same configuration (0.80 to 0.90"
        " over 2).",
        "FLOAT16 IS NO FASTER HERE: its files took 1.50 times float32's latency, same"
        " configuration.",
    ]


def test_predictions_that_the_run_corrected_do_not_claim_the_target_s_error() -> None:
    errors = [{"latency_error_pct": 1.3, "memory_error_pct": 4.1}]
    sources = Sources.of("nx", errors, MEASURING)
    assert sources.latency == "predicted for nx, corrected by what was measured on ssh://me@board"
    assert sources.memory == "predicted for nx, checked to 4.1 %"
    latency = metric_of("latency")
    assert sources.heading(latency, ["predicted", ""]) == f"latency ms ({sources.latency})"
    assert sources.heading(latency, ["predicted", "measured"]) == (
        "latency ms (predicted for nx, corrected by what was measured; or measured on"
        " ssh://me@board)"
    )
    lower = Sources.of("nx", errors, {**MEASURING, "corrections": {"latency_ms int8": 0.8}})
    assert lower.latency == (
        "predicted for nx, checked to 1.3 %, int8 corrected by what was measured on ssh://me@board"
    )
    assert predicted_for("jetson-nx", MEASURING, 64) == {
        "target": "jetson-nx",
        "of": "PyTorch eager float32",
        "batch": 64,
        "corrected": "corrected by what was measured on ssh://me@board (latency times 1.30)",
    }
    (line, *_) = device_notes("jetson-nx", MEASURING)
    assert line.endswith(
        "the other figures are predictions: target jetson-nx, PyTorch eager float32, corrected by"
        " what was measured on ssh://me@board (latency times 1.30)."
    )
