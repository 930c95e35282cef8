"""A finished search says what its final evaluation and its trials say, and where that is kept."""

from pathlib import Path

from problems import fake_problem

from autotok.searching.records.rundir import RunDirectory
from autotok.searching.running.opening import run_search
from autotok.searching.running.search_result import result_key
from autotok.searching.space.settings import SearchSettings


def test_a_result_recommends_one_of_its_front_and_counts_different_trials(tmp_path: Path) -> None:
    result = run_search(SearchSettings(n_trials=6), fake_problem(), tmp_path / "run")
    assert result.best in result.front == result.final.front
    scored = {r.config.config_id for r in result.records if r.score is not None and r.config}
    assert result.evaluated == len(scored) == 6


def test_two_runs_of_one_study_keep_their_results_apart(tmp_path: Path) -> None:
    keys = set()
    for name in ("one", "other"):
        run_search(SearchSettings(n_trials=2), fake_problem(), tmp_path / name)
        keys.add(result_key(RunDirectory.open(tmp_path / name)))
    assert len(keys) == 2
