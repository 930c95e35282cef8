"""Searches that are killed: a process that forks one per line it reads, so that imports cost once.

A line is a JSON object: folder, trials, engine ('alone', 'workers' or 'ray'), storage, and what
kills it: `after_s` seconds, or the `point`-th write of the study or of a file, in a `phase`:
'before' it, 'half' of it, or 'after' it. The answer is the exit status, negative for a signal.
"""

import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.storages import RDBStorage
from optuna.storages.journal import JournalFileBackend
from problems import FakeEvaluator, FakeTally, fake_problem, vit_facts

from autotok.config import CompressionConfig
from autotok.searching.engines.base import Engine
from autotok.searching.proposing import surrogate
from autotok.searching.records.rundir import RunDirectory
from autotok.searching.running.opening import resume_search, run_search
from autotok.searching.space.problem import Problem
from autotok.searching.space.settings import SearchSettings

SEED = 5
FEW_CANDIDATES = {"_SHAPES": 24, "_NEAR_SHAPES": 2}
"""Instead of thousands to choose the next trial from, which is not what a kill can spoil."""
WRITES = (
    *("set_trial_user_attr", "set_trial_state_values", "set_study_user_attr"),
    *("set_study_system_attr", "create_new_trial", "create_new_study"),
)


@dataclass
class Brief(FakeEvaluator):
    """Takes a moment, so that kills land inside evaluations as well as between them."""

    def __init__(self) -> None:
        super().__init__(vit_facts())

    def __call__(self, config: CompressionConfig, start: int, stop: int) -> FakeTally:
        time.sleep(0.004)
        return super().__call__(config, start, stop)


def brief_problem() -> Problem:
    return fake_problem(evaluate=Brief())


class KillPoints:
    """Counts writes, and ends this process at the one asked for."""

    def __init__(self, point: int, phase: str) -> None:
        self._left, self._phase = point, phase

    def here(self, phase: str) -> bool:
        """Whether to die now."""
        if phase == "before":
            self._left -= 1
        if self._left == 0 and phase == self._phase:
            os.kill(os.getpid(), signal.SIGKILL)
        return self._left == 0 and self._phase == "half"

    def around(self, home: Any, name: str) -> None:
        """Make every call of `home.name` a point."""
        plain: Callable[..., Any] = getattr(home, name)

        def counted(*arguments: Any, **named: Any) -> Any:
            self.here("before")
            found = plain(*arguments, **named)
            self.here("after")
            return found

        setattr(home, name, counted)

    def in_journal(self) -> None:
        """Every line of a journal is a point, and half of a line is one."""
        plain = JournalFileBackend.append_logs

        def counted(backend: JournalFileBackend, logs: list[dict[str, Any]]) -> None:
            if self.here("before"):
                with open(backend._file_path, "ab") as file:
                    file.write(json.dumps(logs[0]).encode()[:-2])
                os.kill(os.getpid(), signal.SIGKILL)
            plain(backend, logs)
            self.here("after")

        JournalFileBackend.append_logs = counted  # type: ignore[method-assign]

    def everywhere(self) -> None:
        self.in_journal()
        self.around(os, "replace")
        for name in WRITES:
            self.around(RDBStorage, name)


def engine_of(name: str, folder: Path) -> Engine | None:
    if name == "workers":
        from autotok.searching.engines import worker_process
        from autotok.searching.engines.workers import ProcessEngine

        if folder.name != "run0":  # those are spawned, as a user's are: each imports torch
            worker_process._CONTEXT = multiprocessing.get_context("fork")  # type: ignore[assignment]
        return ProcessEngine(brief_problem, 2)
    if name == "ray":
        from autotok.searching.engines.ray import RayEngine

        return RayEngine(brief_problem, workers=2, address=None, resources={}, storage=folder)
    return None


def live(task: dict[str, Any]) -> None:
    """One life of a search: begin or go on."""
    folder = Path(task["folder"])
    if "point" in task:
        KillPoints(task["point"], task["phase"]).everywhere()
    if (folder / "config.yaml").exists():
        resume_search(brief_problem(), folder, engine=engine_of(task["engine"], folder))
    else:
        run = RunDirectory.create(folder)
        settings = SearchSettings(n_trials=task["trials"], seed=SEED, storage=task["storage"])
        run_search(settings, brief_problem(), run, engine=engine_of(task["engine"], folder))


def fork(task: dict[str, Any]) -> int:
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        with open(task["log"], "a", encoding="utf-8") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        try:
            live(task)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if "after_s" in task:
        time.sleep(task["after_s"])
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def lived_once() -> None:
    """What every life would import and price again is there when it is forked."""
    with tempfile.TemporaryDirectory() as folder:
        settings = SearchSettings(n_trials=2, seed=SEED)
        run_search(settings, brief_problem(), Path(folder) / "run")


def main() -> None:
    for name, number in FEW_CANDIDATES.items():
        setattr(surrogate, name, number)
    lived_once()
    for line in sys.stdin:
        print(fork(json.loads(line)), flush=True)


def kill_plan(moments: random.Random, task: dict[str, Any], longest_s: float) -> dict[str, Any]:
    """The task with a random end: by the clock one time in three, else at a write."""
    if moments.random() < 1 / 3:
        return {**task, "after_s": moments.uniform(0.0, longest_s)}
    phase = moments.choice(["before", "half", "after", "after"])
    return {**task, "point": moments.randint(1, moments.choice([12, 30, 90])), "phase": phase}


if __name__ == "__main__":
    main()
