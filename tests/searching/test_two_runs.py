"""Two searches in one database at once: both finish, each with its own trials."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from postgresql import Server, quick_folder, server
from problems import FakeEvaluator, FakeTally, fake_problem, vit_facts

from autotok.config import CompressionConfig
from autotok.errors import ConfigError, StorageUnreachable
from autotok.report.dashboard import dashboard_app
from autotok.searching.proposing.storage import open_storage
from autotok.searching.records.rundir import RunDirectory
from autotok.searching.running.opening import resume_search, run_search
from autotok.searching.running.search_result import SearchResult
from autotok.searching.space.settings import SearchSettings

HERE = Path(__file__).parent
TRIALS = 12


@pytest.fixture(scope="module")
def postgresql() -> Iterator[Server]:
    with server() as one:
        yield one


def both_at_once(storage: str, folder: Path) -> None:
    paths = [str(HERE.parents[1]), str(HERE)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "one_run.py"), storage]
    processes = [
        subprocess.Popen([*command, str(folder / name), str(TRIALS), seed], env=environment)
        for name, seed in (("a", "1"), ("b", "2"))
    ]
    assert [process.wait(150) for process in processes] == [0, 0]
    opened = open_storage(storage)
    names = optuna.get_all_study_names(opened)
    assert len(names) == 2
    for name, seed in (("a", 1), ("b", 2)):
        alone = run_search(
            SearchSettings(n_trials=TRIALS, seed=seed), fake_problem(), folder / f"alone-{name}"
        )
        again = resume_search(fake_problem(), folder / name, storage=storage)
        assert [r.params for r in again.records] == [r.params for r in alone.records]
        study = str(RunDirectory.open(folder / name).read_config()["search"]["study"])
        trials = optuna.load_study(study_name=study, storage=opened).get_trials()
        assert [t.user_attrs["number"] for t in trials] == [r.number for r in alone.records]
        assert all(t.state.is_finished() for t in trials)
        names.remove(study)
    assert names == []


@pytest.mark.slow
def test_two_searches_in_one_sqlite_file_both_finish(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=quick_folder()) as folder:
        both_at_once(f"sqlite:///{folder}/studies.db", tmp_path)


@pytest.mark.slow
def test_two_searches_in_one_postgresql_both_finish(postgresql: Server, tmp_path: Path) -> None:
    both_at_once(postgresql.url, tmp_path)


@pytest.mark.slow
def test_a_password_is_in_no_file_and_comes_from_the_environment(
    postgresql: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGPASSWORD", raising=False)
    folder = tmp_path / "run"
    run_search(SearchSettings(n_trials=2, storage=postgresql.url), fake_problem(), folder)
    for path in folder.rglob("*"):
        assert not path.is_file() or postgresql.password.encode() not in path.read_bytes()
    with pytest.raises(ConfigError, match="not kept in files: set AUTOTOK_STORAGE_PASSWORD, PGPAS"):
        resume_search(fake_problem(), folder)
    with pytest.raises(ConfigError, match="not kept in files"):
        dashboard_app(folder)
    monkeypatch.setenv("PGPASSWORD", postgresql.password)
    assert resume_search(fake_problem(), folder, n_trials=3).evaluated == 3
    monkeypatch.setenv("PGPASSWORD", "wrong")
    with pytest.raises(StorageUnreachable, match="password authentication failed"):
        resume_search(fake_problem(), folder)


@pytest.mark.slow
def test_a_server_lost_in_mid_search_is_one_sentence_and_a_resume_goes_on(tmp_path: Path) -> None:
    good, settings = FakeEvaluator(vit_facts()), SearchSettings(n_trials=8, seed=3)
    with server() as own:

        def evaluate(config: CompressionConfig, begin: int, stop: int) -> FakeTally:
            if len(good.calls) == 5:
                own.stop()
            return good(config, begin, stop)

        lost = SearchSettings(n_trials=8, seed=3, storage=own.url)
        with pytest.raises(
            StorageUnreachable, match=r"does not answer \(.*\); bring it back and continue with"
        ) as caught:
            run_search(lost, fake_problem(evaluate=evaluate), tmp_path / "run")
        assert own.password not in str(caught.value)
        own.start()
        resumed = resume_search(fake_problem(), tmp_path / "run", storage=own.url)
    whole: SearchResult = run_search(settings, fake_problem(), tmp_path / "whole")
    assert [r.params for r in resumed.records] == [r.params for r in whole.records]
