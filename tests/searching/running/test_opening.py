"""A finished study keeps what its run's tables say."""

import json
from pathlib import Path

from problems import fake_problem

from autotok.searching.records.rundir import RunDirectory
from autotok.searching.running.opening import kept_result, run_search
from autotok.searching.space.settings import SearchSettings


def test_the_study_keeps_what_pareto_json_says_for_the_run_that_found_it(tmp_path: Path) -> None:
    result = run_search(
        SearchSettings(n_trials=4, control_shapes=0), fake_problem(), tmp_path / "a"
    )
    run = RunDirectory.open(result.directory)
    table = json.loads((run.path / "pareto.json").read_text("utf-8"))
    assert kept_result(run) == table
    run.write_config({**run.read_config(), "run_id": "another"})
    assert kept_result(run) is None
    run.study_log.unlink()
    assert kept_result(run) is None
    assert not run.study_log.exists()
