"""What surrounds a study is checked before anything is loaded or written."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest

import autotok
from autotok.errors import AutotokError, ExportError
from autotok.report.search_run import WholeSearch
from autotok.searching.engines.base import Workers
from autotok.searching.records.rundir import RunDirectory
from autotok.searching.running.opening import kept_trials
from autotok.searching.running.question import Question
from autotok.searching.running.stopwatch import Stopwatch
from autotok.searching.space.settings import SearchSettings


def test_a_broken_onnxruntime_is_told_before_the_first_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # importing it now fails
    with pytest.raises(ExportError, match=r"ONNX files cannot be made here \(ModuleNotFoundError"):
        autotok.search("tiny", data="digits", budget="60%", output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_had_is_told_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_loading(*given: object, **named: object) -> None:
        raise AssertionError("loaded a model first")

    monkeypatch.setattr("autotok.report.search_run.build_session", no_loading)
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("")
    for output, words in (("file", "is a file"), ("full", "is not empty"), ("file/x", "is a file"),
                          ("x" * 300, "File name too long")):  # fmt: skip
        with pytest.raises(AutotokError, match=words):
            autotok.search("tiny", data="digits", budget="60%", output=tmp_path / output)


@pytest.mark.parametrize(
    ("workers", "words"),
    [
        (Workers(ray_address="auto"), "--ray-address needs --engine ray"),
        (Workers(resources={"GPU": 1.0}), "resources per trial needs --engine ray"),
    ],
)
def test_workers_that_cannot_be_are_told_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: Workers, words: str
) -> None:
    monkeypatch.setattr("autotok.report.search_run.build_session", None)
    with pytest.raises(AutotokError, match=words):
        autotok.search(
            "tiny", data="digits", budget="60%", output=tmp_path / "run", workers=workers
        )
    assert not (tmp_path / "run").exists()


def test_a_run_of_another_model_is_no_start(finished_run: Path, tmp_path: Path) -> None:
    with pytest.raises(AutotokError, match="searched data digits, and this search is of cifar10"):
        autotok.search("tiny", data="cifar10", budget="60%", output=tmp_path / "run",
                       warm_start=[finished_run])  # fmt: skip
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("asked", "kept"), [({}, True), ({"target": "x86-desktop"}, False), ({"batch": 8}, False)]
)
def test_costs_of_another_device_are_not_started_from(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], kept: bool
) -> None:
    run = RunDirectory.open(finished_run)
    known = [dataclasses.replace(r, predicted={"latency_ms": 1.0}) for r in kept_trials(run)]
    monkeypatch.setattr("autotok.report.search_run.kept_trials", lambda run: known)
    question = dataclasses.replace(run.section("question", Question), **asked)
    search = WholeSearch(question, SearchSettings(), finished_run, Stopwatch())
    found = search._trials_of(finished_run)
    assert found
    assert {bool(r.predicted) for r in found} == {kept}


def test_an_earlier_run_is_started_from(finished_run: Path, no_onnx: None, tmp_path: Path) -> None:
    run = autotok.search("tiny", data="digits", budget="50%", output=tmp_path / "run", n_trials=3,
                         max_images=40, timeout_s=None, retrain_trials=0, methods=["tome", "evit"],
                         warm_start=[finished_run])  # fmt: skip
    front = {r.config.method for r in autotok.Run(finished_run).records()["front"]}
    assert run.trials["method"].iloc[0] in front | {"none"}
    assert run.command.endswith(f" --warm-start {finished_run}")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"data": "gone"}, "data folder '.*gone' does not exist"),
        ({"train_data": "gone"}, "data folder '.*gone' does not exist"),
        ({"class_names": "gone"}, "has its own classes"),
        ({"checkpoint": "gone.pth"}, r"checkpoint 'gone\.pth' does not exist"),
        ({"backbone": "tinny"}, "did you mean 'tiny'"),
    ],
)
def test_what_is_named_and_is_not_there_is_told_before_the_hand_over_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], words: str
) -> None:
    def no_checking(*_: object) -> None:
        raise AssertionError("imported onnxruntime first")

    monkeypatch.setattr("autotok.report.search_run.check_hand_over", no_checking)
    asked = {"backbone": "tiny", "data": "digits", "budget": "60%", **given}
    with pytest.raises(AutotokError, match=words):
        autotok.search(output=tmp_path / "run", **asked)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("quick_files", "three_turns")
def test_a_number_format_that_is_searched_is_judged_timed_and_handed_over(
    tmp_path: Path,
) -> None:
    asked: dict[str, Any] = {
        "data": "digits", "budget": "80%", "target": "x86-desktop", "max_images": 24,
        "objectives": ("quality", "latency"), "methods": ["topk"], "timeout_s": None,
        "retrain_trials": 0, "control_shapes": 0, "measure_on": "local?runtime=onnxruntime",
    }  # fmt: skip
    run = autotok.search("tiny", formats=["int8"], n_trials=1, output=tmp_path / "int8", **asked)
    assert run.best.config.number_format == "int8"
    assert run.best.reading["dtype"] == "int8"
    best = tmp_path / "int8" / "best"
    assert "number_format: int8" in (tmp_path / "int8" / "best.yaml").read_text("utf-8")
    assert "QuantizeLinear" in (best / "check.json").read_text("utf-8")
    assert "number format is int8" in (best / "README.md").read_text("utf-8")
    assert autotok.evaluate(best, "digits", num_images=24).num_images == 24
