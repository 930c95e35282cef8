"""`init`, `search --config`, `status`, `compare`, `report`, and runs as Python sees them."""

import inspect
import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

import autotok
from autotok.metrics import metric_of
from autotok.searching.records.rundir import RunDirectory
from autotok.searching.space.settings import DEFAULT_TIMEOUT_S, DEFAULT_TRIALS

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def finished(finished_run: Path) -> autotok.Run:
    return autotok.Run(finished_run)


def test_keywords_of_a_search_are_the_fields_of_its_settings_with_their_defaults() -> None:
    asked = inspect.signature(autotok.search).parameters
    usual = autotok.SearchSettings(n_trials=DEFAULT_TRIALS, timeout_s=DEFAULT_TIMEOUT_S)
    for field in fields(autotok.SearchSettings):
        assert asked[field.name].default == getattr(usual, field.name), field.name


def test_settings_and_single_keywords_are_not_both_taken() -> None:
    with pytest.raises(autotok.ConfigError, match="not both"):
        autotok.search("tiny", data="digits", settings=autotok.SearchSettings(), seed=3)


def test_only_the_methods_named_are_tried(finished: autotok.Run) -> None:
    assert set(finished.trials["method"]) <= {"none", "tome", "evit", "random"}
    assert "tome" in set(finished.trials["method"])


def test_an_unknown_method_is_told_before_anything_is_loaded(run: Cli) -> None:
    code, _, err = run("search", "--methods", "tome,evitt")
    assert code == 2
    assert "method 'evitt' is unknown; did you mean 'evit'?" in err


def test_a_run_says_what_it_is(finished: autotok.Run) -> None:
    assert finished.state == "finished"
    assert finished.best.config is not None
    assert repr(finished).startswith(f"Run('{finished.directory}', finished, best ")
    assert finished.best.config.method in repr(finished)
    assert len(finished.front) >= 1


def test_load_gives_what_a_path_holds(finished: autotok.Run) -> None:
    folder = finished.directory
    again = autotok.load(folder)
    assert isinstance(again, autotok.Run)
    assert again.directory == folder
    for name in ("best.yaml", "best"):
        model = autotok.load(folder / name)
        assert isinstance(model, autotok.CompressedViT)
        assert model.config == finished.best.config


def test_status_says_how_far_and_how_to_go_on(run: Cli, own_run: Path) -> None:
    folder, finished = own_run, autotok.Run(own_run)
    code, out, _ = run("status", folder, "--json")
    report = json.loads(out)
    assert code == 0
    assert report["state"] == "finished"
    assert report["asked_for"] == 4
    (folder / "pareto.json").unlink()
    report = json.loads(run("status", folder, "--json")[1])
    assert report["state"] == "interrupted"
    assert report["go_on"] == f"autotok resume {folder}"
    trials = finished.trials
    inside = trials[(trials["state"] == "complete") & trials["feasible"]]
    assert report["best"]["top1_pct"] == inside["top1_pct"].max()


@pytest.mark.parametrize("header", [None, "number"])
def test_a_run_that_ended_before_its_first_trial_is_not_damaged(
    run: Cli, own_run: Path, header: str | None
) -> None:
    (own_run / "pareto.json").unlink()
    for name in ("trials.csv", "pareto.csv"):
        RunDirectory.open(own_run).write_records(name, [])
        if header is not None:  # as earlier versions wrote it
            (own_run / name).write_text(f"{header}\n")
    found = autotok.Run(own_run)
    assert (len(found.trials), len(found.front)) == (0, 0)
    assert found.trial_points(metric_of("top1")) == []
    code, out, _ = run("status", own_run, "--json")
    report = json.loads(out)
    assert (code, report["state"], report["evaluated"]) == (0, "interrupted", 0)
    assert report["best"] is None


def test_two_runs_are_compared_side_by_side(run: Cli, finished: autotok.Run) -> None:
    code, out, _ = run("compare", finished.directory, finished.directory)
    assert code == 0
    assert out.count("hypervolume of") == 2
    assert "settings that differ" not in out


def test_two_metrics_to_compare_over_are_named_and_one_that_is_unknown_is_told(
    run: Cli, finished: autotok.Run
) -> None:
    both = ("compare", finished.directory, finished.directory)
    found = json.loads(run(*both, "--x", "latency", "--y", "params", "--json")[1])
    assert found["metrics"] == ["latency_ms", "params_m"]
    rows = found["runs"][0]["front"]
    assert [row["latency_ms"] for row in rows] == sorted(row["latency_ms"] for row in rows)
    code, _, err = run(*both, "--x", "energy")
    assert (code, "knows no energy" in err) == (2, True)


def test_report_writes_the_files_again_and_closes_as_the_search_did(
    run: Cli, own_run: Path
) -> None:
    (own_run / "pareto.csv").unlink()
    code, out, _ = run("report", own_run)
    assert code == 0
    assert out == run("pareto", own_run)[1]
    assert (own_run / "pareto.csv").is_file()


@pytest.mark.slow
@pytest.mark.usefixtures("no_onnx")
def test_a_run_of_an_earlier_version_is_shown_compared_and_resumed(
    run: Cli, own_run: Path, finished: autotok.Run
) -> None:
    """Its config.yaml calls `device` what is `measure_on` since, and `runs_on` what is `device`."""
    path = own_run / "config.yaml"
    config = yaml.safe_load(path.read_text("utf-8"))
    question = config["question"]
    question["device"], question["runs_on"] = question.pop("measure_on"), "cpu"
    path.write_text(yaml.safe_dump({**config, "version": 1}, sort_keys=False), "utf-8")
    assert autotok.Run(own_run).question.measure_on is None
    assert autotok.Run(own_run).question.device == "cpu"
    for words in (("report", own_run), ("compare", own_run, finished.directory)):
        code, _, err = run(*words)
        assert code == 0, err
    page = (own_run / "report.html").read_text("utf-8")
    assert "--device cpu" in page
    assert "--measure-on" not in page
    code, _, err = run("resume", own_run, "--device", "auto", "-q")
    assert code == 0, err
    again = yaml.safe_load(path.read_text("utf-8"))
    del question["runs_on"]
    assert again["question"] == {**question, "measure_on": None, "device": "auto"}


def test_json_nests_and_holds_no_string_of_json(run: Cli, finished: autotok.Run) -> None:
    def look(value: object) -> None:
        if isinstance(value, dict):
            for inner in value.values():
                look(inner)
        elif isinstance(value, list):
            for inner in value:
                look(inner)
        elif isinstance(value, str):
            assert not value.startswith(("{", "[")), value

    found = json.loads(run("pareto", finished.directory, "--json")[1])
    look(found)
    assert autotok.CompressionConfig.from_dict(found["best"]["config"]) == finished.best.config


def test_tables_fit_80_columns_and_wide_ones_show_all(run: Cli, finished: autotok.Run) -> None:
    narrow = run("pareto", finished.directory)[1]
    wide = run("pareto", finished.directory, "--wide")[1]
    assert max(len(line) for line in narrow.splitlines() if line[:1] in "┃│") <= 80
    assert "against the ┃" in wide
    assert "against the ┃" not in narrow
    assert "feasible" in wide
    assert "feasible" not in narrow
    for line in run("methods")[1].splitlines():
        assert len(line) <= 80


def test_a_run_killed_while_it_handed_over_is_not_finished_and_says_what_is_missing(
    run: Cli, own_run: Path
) -> None:
    (own_run / "report.json").unlink()
    (own_run / "best.yaml").unlink()
    report = json.loads(run("status", own_run, "--json")[1])
    assert (report["state"], report["go_on"]) == ("interrupted", f"autotok resume {own_run}")
    code, out, _ = run("report", own_run)
    assert code == 0
    missing = (
        "not all was handed over (missing: best.yaml, the notes and checks of the end): go on with"
        f" `autotok resume {own_run}`"
    )
    assert missing in out
    assert missing[1:] in (own_run / "report.html").read_text("utf-8")
