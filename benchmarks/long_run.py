"""Whether memory stays flat over a long search: real trials of `tiny` on digits, RSS every hundred.

    OMP_NUM_THREADS=1 python benchmarks/long_run.py [--trials 2000] [--images 32] [--workers 2]

The workers of a parallel search are counted with the process that leads them. The last line is the
growth of a trial over the second half, by a straight line through what was printed.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from autotok.searching.engines.workers import ProcessEngine
from autotok.searching.running.engine_choice import ProblemFactory
from autotok.searching.running.events import Event, TrialFinished
from autotok.searching.running.opening import run_search
from autotok.searching.running.question import Question
from autotok.searching.running.session import build_problem
from autotok.searching.space.settings import SearchSettings

_EVERY = 100
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--images", type=int, default=32, help="of a trial")
    parser.add_argument("--workers", type=int, default=1)
    asked = parser.parse_args()
    watch = Watch()
    settings = SearchSettings(
        n_trials=asked.trials,
        images_few=asked.images,
        images_more=asked.images,
        images_final=asked.images,
        front_size=2,
        control_shapes=0,
        retrain_trials=0,
    )
    question = Question(backbone="tiny", data="digits", budgets=("70%",), precision="float32")
    problem = build_problem(question).problem
    with tempfile.TemporaryDirectory() as folder:
        engine = None
        if asked.workers > 1:
            factory = ProblemFactory.of(question.to_dict(), None, 0, Path(folder) / "run")
            engine = ProcessEngine(factory, asked.workers)
        run_search(settings, problem, Path(folder) / "run", watch, engine=engine)
    print(watch.growth())


class Watch:
    """Prints memory and processor time as trials finish."""

    def __init__(self) -> None:
        self._seen: list[tuple[int, float]] = []
        self._finished, self._began = 0, time.process_time()

    def __call__(self, event: Event) -> None:
        """Take an event of the search."""
        if not isinstance(event, TrialFinished):
            return
        self._finished += 1
        if self._finished % _EVERY:
            return
        now = time.process_time()
        own, others = resident_mb(os.getpid()), sum(map(resident_mb, children()))
        self._seen.append((self._finished, own + others))
        beside = f", workers {others:6.1f} MB" if others else ""
        spent = 1e3 * (now - self._began) / _EVERY
        print(
            f"trial {self._finished:5d}: {own:6.1f} MB{beside}, {spent:5.1f} ms of the processor",
            flush=True,
        )
        self._began = now

    def growth(self) -> str:
        """Of the second half, in words."""
        half = np.array(self._seen[len(self._seen) // 2 :])
        if len(half) < 2:
            return "too few trials to tell a growth"
        slope = float(np.polyfit(half[:, 0], half[:, 1], 1)[0])
        return f"from trial {half[0, 0]:.0f} on: {1e3 * slope:.1f} KB a trial"


def resident_mb(pid: int) -> float:
    """Of a process; 0 for one that has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_MB
    except FileNotFoundError:
        return 0.0


def children() -> list[int]:
    """Processes that this one started."""
    own = os.getpid()
    tasks = Path(f"/proc/{own}/task").iterdir()
    return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]


if __name__ == "__main__":
    main()
