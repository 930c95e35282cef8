"""`init`, `search --config`, `status`, `compare`, `report`, and runs as Python sees them."""

import inspect
import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

import autotok
from autotok.report.run_reports import compare_runs
from autotok.searching.space.settings import DEFAULT_TIMEOUT_S, DEFAULT_TRIALS

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> autotok.Run:
    return autotok.search(
        "tiny",
        data="digits",
        budget="60%",
        methods=["tome", "evit"],
        n_trials=4,
        timeout_s=None,
        retrain_trials=0,
        max_images=40,
        output=tmp_path_factory.mktemp("runs") / "first",
    )


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


def test_status_says_how_far_and_how_to_go_on(run: Cli, finished: autotok.Run) -> None:
    folder = finished.directory
    code, out, _ = run("status", folder, "--json")
    report = json.loads(out)
    assert code == 0
    assert report["state"] == "finished"
    assert report["asked_for"] == 4
    kept = (folder / "pareto.json").read_bytes()
    try:
        (folder / "pareto.json").unlink()
        report = json.loads(run("status", folder, "--json")[1])
    finally:
        (folder / "pareto.json").write_bytes(kept)
    assert report["state"] == "interrupted"
    assert report["go_on"] == f"autotok resume {folder}"
    trials = finished.trials
    inside = trials[(trials["state"] == "complete") & trials["feasible"]]
    assert report["best"]["top1_pct"] == inside["top1_pct"].max()


class _Record:
    def __init__(self, top1: float, macs: float) -> None:
        self._row = {"method": "tome", "top1_pct": top1, "macs_g": macs}

    def row(self) -> dict[str, object]:
        return dict(self._row)


class _Run:
    def __init__(self, name: str, seed: int, top1: float, macs: float) -> None:
        self.directory, self.config = Path(name), {"run_id": name, "search": {"seed": seed}}
        self._front = [_Record(top1, macs)]

    def records(self) -> dict[str, object]:
        return {"front": self._front}


def test_comparison_gives_hypervolumes_up_to_one_point_and_what_differs() -> None:
    # worst of both: 70 %, 2 G; a tenth of the spread (10, 1) further: 69 %, 2.1 G
    found = compare_runs(_Run("a", 0, 80.0, 1.0), _Run("b", 1, 70.0, 2.0))  # type: ignore[arg-type]
    assert [run["hypervolume"] for run in found["runs"]] == [12.1, 0.1]
    assert found["differ"] == {"search.seed": [0, 1]}


def test_two_runs_are_compared_side_by_side(run: Cli, finished: autotok.Run) -> None:
    code, out, _ = run("compare", finished.directory, finished.directory)
    assert code == 0
    assert out.count("hypervolume of") == 2
    assert "settings that differ" not in out


def test_report_draws_the_picture_again(run: Cli, finished: autotok.Run) -> None:
    picture = finished.directory / "pareto.png"
    picture.unlink()
    assert run("report", finished.directory)[0] == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


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
    assert "uncompressed ┃" in wide
    assert "feasible" in wide
    assert "feasible" not in narrow
    for line in run("methods")[1].splitlines():
        assert len(line) <= 80


def test_a_file_of_init_is_read_by_search_and_flags_override_it(run: Cli, tmp_path: Path) -> None:
    file = tmp_path / "asked.yaml"
    assert run("init", file)[0] == 0
    given = yaml.safe_load(file.read_text("utf-8"))
    assert given["trials"] == DEFAULT_TRIALS
    assert given["timeout"] == DEFAULT_TIMEOUT_S
    assert run("init", file)[0] == 2
    file.write_text(yaml.safe_dump(given | {"space": "no-such-space", "engine": "local"}))
    code, _, err = run("search", "--config", file)
    assert code == 2
    assert "no-such-space" in err
    code, _, err = run("search", "--config", file, "--engine", "rai")
    assert code == 2
    assert "engine 'rai' is unknown; did you mean 'ray'?" in err
    file.write_text("trails: 3")
    code, _, err = run("search", "--config", file)
    assert code == 2
    assert "'trails' is unknown; did you mean 'trials'?" in err
