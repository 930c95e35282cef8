"""`autotok study list | run`."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "studies"))

from published_rows import tiny_study

Cli = Callable[..., tuple[int, str, str]]


def test_list_names_the_studies_and_their_rows(run: Cli) -> None:
    code, out, _ = run("study", "list")
    assert code == 0
    assert "survey-2" in out
    code, out, _ = run("study", "list", "--json")
    rows = {study["name"]: study["rows"] for study in json.loads(out)}
    assert "tome-retrain" in rows["survey-2"]


def test_run_says_the_cost_first_and_prints_the_table(
    run: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = tiny_study(monkeypatch, tmp_path / "tables")
    asked = ("study", "run", name, "--data", "digits", "--images", 10, "--only", "tome-r2")
    code, out, err = run(*asked, "-o", tmp_path / "out")
    assert code == 0
    assert "cost: 1 configurations of 1 rows on tiny, 10 images each" in err
    assert "| tome-r2 | plug-in |" in out
    assert str(tmp_path / "out") in out
    code, out, _ = run(*asked, "-o", tmp_path / "out", "--json", "-q")
    assert [row["row"] for row in json.loads(out)] == ["tome-r2"]


def test_names_that_are_none_are_told(run: Cli, tmp_path: Path) -> None:
    code, _, err = run("study", "run", "survey2")
    assert code == 2
    assert "study 'survey2' is unknown; did you mean 'survey-2'?" in err
    code, _, err = run("study", "run", "survey-2", "--checkpoint", "weights.pth")
    assert code == 2
    assert "'weights.pth' is not understood; give NAME=FILE" in err


def test_an_interrupted_study_says_how_to_go_on(
    run: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from autotok.studies.row_models import RowModels

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RowModels, "judge", stopped)
    name = tiny_study(monkeypatch, tmp_path / "tables")
    code, _, err = run("study", "run", name, "--data", "digits", "-o", tmp_path / "out")
    assert code == 130
    assert "rows that ran are kept; the same command goes on" in err
