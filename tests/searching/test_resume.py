"""Killed at any moment, a search goes on: nothing finished is lost, nothing is left running."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from problems import FakeEvaluator, FakeTally, fake_problem, vit_facts

from autotok.config import CompressionConfig
from autotok.searching.proposing.journal import repair_journal
from autotok.searching.running.opening import resume_search, run_search
from autotok.searching.running.search_result import SearchResult
from autotok.searching.space.settings import SearchSettings

TRIALS = 18
HERE = Path(__file__).parent
STATE = optuna.trial.TrialState


def fronts(result: SearchResult) -> list[tuple[str, float]]:
    return [(r.config.config_id, r.score.value) for r in result.front if r.config and r.score]


def start(folder: Path, verb: str) -> subprocess.Popen[bytes]:
    root = HERE.parents[1]
    environment = {**os.environ, "AUTOTOK_TEST_DELAY": "0.02", "PYTHONPATH": str(root)}
    command = [sys.executable, str(HERE / "killable.py"), str(folder), verb, str(TRIALS)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)


def finished(folder: Path) -> dict[int, str]:
    """Logical number -> record of the finished trials, read from the journal as it stands."""
    log = folder / "study.log"
    if not log.exists():
        return {}
    repair_journal(log)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(log)))
    studies = optuna.get_all_study_names(storage)
    if not studies:
        return {}
    trials = optuna.load_study(study_name=studies[0], storage=storage).get_trials()
    done = [t for t in trials if t.state.is_finished() and "record" in t.user_attrs]
    return {t.user_attrs["number"]: t.user_attrs["record"] for t in done}


@pytest.mark.crash
def test_kills_at_random_moments_lose_nothing_and_end_with_the_same_front(tmp_path: Path) -> None:
    expected = run_search(
        SearchSettings(n_trials=TRIALS, seed=5), fake_problem(), tmp_path / "whole"
    )
    folder, moments = tmp_path / "killed", random.Random(1)
    known: dict[int, str] = {}
    verb, kills = "start", 0
    for _ in range(4):
        process = start(folder, verb)
        while process.poll() is None and len(finished_lines(folder)) <= len(known):
            time.sleep(0.01)
        time.sleep(moments.uniform(0.0, 0.25))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.communicate()
        now = finished(folder)
        assert known.items() <= now.items()  # whatever was finished is still there, unchanged
        known = now
        verb = "resume" if (folder / "config.yaml").exists() else "start"
    result = resume_search(fake_problem(), folder)
    assert kills >= 1
    assert fronts(result) == fronts(expected)
    assert [r.params for r in result.records] == [r.params for r in expected.records]
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(folder / "study.log"))
    )
    states = [t.state for t in optuna.load_study(study_name="autotok", storage=storage).trials]
    assert STATE.RUNNING not in states


def finished_lines(folder: Path) -> list[str]:
    log = folder / "study.log"
    if not log.exists():
        return []
    return [line for line in log.read_text(errors="replace").splitlines() if '"record"' in line]


def test_a_stale_lock_and_a_half_written_line_do_not_stop_a_resume(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run_search(SearchSettings(n_trials=6), fake_problem(), folder)
    (folder / "study.log.lock").touch()
    with open(folder / "study.log", "ab") as file:
        file.write(b'{"op_code": 8, "trial_id": 3, "user_at')
    result = resume_search(fake_problem(), folder, n_trials=8)
    assert not (folder / "study.log.lock").exists()
    assert result.evaluated == 8


def test_an_interrupt_saves_the_table_and_leaves_nothing_running(tmp_path: Path) -> None:
    good = FakeEvaluator(vit_facts())

    def evaluate(config: CompressionConfig, begin: int, stop: int) -> FakeTally:
        if len(good.calls) == 9:
            raise KeyboardInterrupt
        return good(config, begin, stop)

    settings = SearchSettings(n_trials=10, seed=5)
    with pytest.raises(KeyboardInterrupt):
        run_search(settings, fake_problem(evaluate=evaluate), tmp_path / "run")
    assert (tmp_path / "run" / "trials.csv").read_text().count("\n") > 4
    log = tmp_path / "run" / "study.log"
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(log)))
    study = optuna.load_study(study_name="autotok", storage=storage)
    assert STATE.RUNNING not in [t.state for t in study.trials]
    resumed = resume_search(fake_problem(), tmp_path / "run")
    whole = run_search(settings, fake_problem(), tmp_path / "whole")
    assert fronts(resumed) == fronts(whole)


@pytest.mark.parametrize("sampler", ["nsgaii", "gp", "grid", "random"])
def test_every_sampler_goes_on_as_if_never_stopped(sampler: str, tmp_path: Path) -> None:
    good = FakeEvaluator(vit_facts())

    def evaluate(config: CompressionConfig, begin: int, stop: int) -> FakeTally:
        if len(good.calls) == (20 if sampler == "gp" else 36):
            raise KeyboardInterrupt
        return good(config, begin, stop)

    trials = 14 if sampler == "gp" else 48
    settings = SearchSettings(n_trials=trials, sampler=sampler)
    with pytest.raises(KeyboardInterrupt):
        run_search(settings, fake_problem(evaluate=evaluate), tmp_path / "run")
    resumed = resume_search(fake_problem(), tmp_path / "run")
    whole = run_search(settings, fake_problem(), tmp_path / "whole")
    assert [r.params for r in resumed.records] == [r.params for r in whole.records]


@pytest.mark.parametrize("unfinished", [10, 2**20 - 1, 2**20, 3 * 2**20 + 7])
def test_an_unfinished_line_of_any_length_is_cut_and_no_whole_one(
    unfinished: int, tmp_path: Path
) -> None:
    log = tmp_path / "study.log"
    log.write_bytes(b'{"a": 1}\n{"b": 2}\n' + b"x" * unfinished)
    repair_journal(log)
    assert log.read_bytes() == b'{"a": 1}\n{"b": 2}\n'
    log.write_bytes(b"y" * unfinished)
    repair_journal(log)
    assert log.read_bytes() == b""
