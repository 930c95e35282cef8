"""200 kills at random moments, inside `tell` as well: nothing lost, nothing twice, same front."""

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from killing import FEW_CANDIDATES, SEED, brief_problem, kill_plan
from postgresql import quick_folder

from autotok.searching.proposing import surrogate
from autotok.searching.proposing.journal import repair_journal
from autotok.searching.records.rundir import RunDirectory
from autotok.searching.running.opening import resume_search, run_search
from autotok.searching.running.search_result import SearchResult
from autotok.searching.space.settings import SearchSettings

HERE = Path(__file__).parent
TRIALS = 16
STATE = optuna.trial.TrialState


class Killer:
    """The process of `killing.py`, and what it has done."""

    def __init__(self, folder: Path) -> None:
        self.kills, self._log = 0, folder / "log.txt"
        paths = [str(HERE.parents[1]), str(HERE)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "killing.py")],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def life(self, task: dict[str, Any]) -> bool:
        """Whether the search came to its end; else it was killed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({**task, "log": str(self._log)}) + "\n")
        self._process.stdin.flush()
        status = int(self._process.stdout.readline())
        assert status in (0, -9), self._log.read_text()
        self.kills += status == -9
        return status == 0

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture
def killer(tmp_path: Path) -> Iterator[Killer]:
    found = Killer(tmp_path)
    yield found
    found.close()


@pytest.fixture(scope="module", autouse=True)
def _few_candidates() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, number in FEW_CANDIDATES.items():
            patch.setattr(surrogate, name, number)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    settings = SearchSettings(n_trials=TRIALS, seed=SEED)
    return run_search(settings, brief_problem(), tmp_path_factory.mktemp("whole") / "run")


def study_of(folder: Path, storage: str | None) -> list[optuna.trial.FrozenTrial]:
    """Its trials as Optuna reads them."""
    if not (folder / "config.yaml").exists():
        return []
    name = RunDirectory.open(folder).read_config()["search"]["study"]
    opened: Any = storage
    if storage is None:
        if not (folder / "study.log").exists():
            return []
        repair_journal(folder / "study.log")
        backend = optuna.storages.journal.JournalFileBackend(str(folder / "study.log"))
        opened = optuna.storages.JournalStorage(backend)
    if name not in optuna.get_all_study_names(opened):
        return []
    return optuna.load_study(study_name=name, storage=opened).get_trials()


def finished(trials: list[optuna.trial.FrozenTrial]) -> dict[int, str]:
    """Record of every finished trial, by its number; none has two."""
    done = [t for t in trials if t.state in (STATE.COMPLETE, STATE.PRUNED)]
    found = {t.user_attrs["number"]: t.user_attrs["record"] for t in done}
    assert len(found) == len(done)
    return found


def kill_until_done(
    killer: Killer, folder: Path, seed: int, *, engine: str = "alone", storage: str | None = None
) -> SearchResult:
    """A search that is killed again and again, and the same one asked once more at its end."""
    moments, known = random.Random(seed), dict[int, str]()
    task = {"folder": str(folder), "trials": TRIALS, "engine": engine, "storage": storage}
    longest_s = {"alone": 0.4, "workers": 4.0, "ray": 14.0}[engine]
    done = False
    while not done:
        done = killer.life(kill_plan(moments, task, longest_s))
        trials = study_of(folder, storage)
        now = finished(trials)
        assert known.items() <= now.items()  # whatever was finished is still there, unchanged
        known = now
    assert STATE.RUNNING not in [t.state for t in trials]
    result = resume_search(brief_problem(), folder)
    assert {r.number: json.dumps(r.to_dict()) for r in result.records} == known
    complete = [r.config.config_id for r in result.records if r.state == "complete" and r.config]
    assert len(set(complete)) == len(complete)
    assert not [p for p in folder.iterdir() if p.name.startswith(".") and p.name != ".lock"]
    return result


def fronts(result: SearchResult) -> list[tuple[str, float]]:
    return [(r.config.config_id, r.score.value) for r in result.front if r.config and r.score]


def check_same(result: SearchResult, whole: SearchResult) -> None:
    assert [r.params for r in result.records] == [r.params for r in whole.records]
    assert fronts(result) == fronts(whole)


@pytest.mark.crash
def test_one_process_killed_160_times_ends_with_the_same_front_every_time(
    killer: Killer, whole: SearchResult, tmp_path: Path
) -> None:
    runs = 0
    while killer.kills < 160:
        check_same(kill_until_done(killer, tmp_path / f"run{runs}", runs), whole)
        runs += 1


@pytest.mark.crash
def test_a_search_in_a_database_killed_24_times_ends_with_the_same_front_every_time(
    killer: Killer, whole: SearchResult, tmp_path: Path
) -> None:
    with tempfile.TemporaryDirectory(dir=quick_folder()) as quick:
        runs, storage = 0, f"sqlite:///{quick}/studies.db"
        while killer.kills < 24:
            folder = tmp_path / f"run{runs}"
            check_same(kill_until_done(killer, folder, 100 + runs, storage=storage), whole)
            runs += 1


@pytest.mark.crash
def test_workers_killed_12_times_lose_nothing(killer: Killer, tmp_path: Path) -> None:
    runs = 0
    while killer.kills < 12:
        result = kill_until_done(killer, tmp_path / f"run{runs}", 200 + runs, engine="workers")
        assert result.evaluated == TRIALS
        runs += 1


@pytest.mark.crash
def test_ray_killed_4_times_loses_nothing(killer: Killer, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    runs = 0
    while killer.kills < 4:
        result = kill_until_done(killer, tmp_path / f"run{runs}", 300 + runs, engine="ray")
        assert result.evaluated == TRIALS
        runs += 1
