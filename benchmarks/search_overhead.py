"""How long a search spends per trial outside evaluation, and how long a large study takes to open.

    python benchmarks/search_overhead.py [--trials 1000] [--sampler auto] [--study 10000]

The evaluation is a formula that takes no time. The bars: 15 ms per trial at trial 1,000 (median of
the last 100), journal writes included, and 2 s to open a study of 10,000 trials. Beside the time by
the clock stands the processor's, which other work on the machine hardly touches.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "searching"))

from problems import FakeEvaluator, fake_problem, vit_facts

from autotok.searching.engines.base import Job
from autotok.searching.running.loop import Search
from autotok.searching.running.opening import open_search
from autotok.searching.space.problem import Problem
from autotok.searching.space.settings import FidelityPlan, SearchSettings, fidelity_plan

Pair = NDArray[np.float64]


def main() -> None:
    """Run and print one line per hundred trials."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--sampler", default="auto")
    parser.add_argument("--study", type=int, default=10_000, help="trials of the study opened")
    arguments = parser.parse_args()
    times = measure(arguments.trials, arguments.sampler)
    for start in range(0, len(times), 100):
        part = times[start : start + 100] * 1e3
        middle, own = np.median(part, axis=0)
        high = np.quantile(part[:, 0], 0.95)
        print(
            f"trials {start:5d}-{start + len(part) - 1:5d}: {middle:6.2f} ms, p95 {high:6.2f} ms,"
            f" processor {own:6.2f} ms",
            flush=True,
        )
    seconds, own = opened(arguments.study)
    print(f"opening a study of {arguments.study} trials: {seconds:.2f} s, processor {own:.2f} s")


def clocks() -> Pair:
    """Seconds by the clock and of the processor."""
    return np.array([time.perf_counter(), time.process_time()])


def question(settings: SearchSettings) -> tuple[Problem, FidelityPlan]:
    """A problem whose answers take no time."""
    evaluator = FakeEvaluator(vit_facts())
    problem = fake_problem(evaluate=evaluator, finetune=evaluator.finetune)
    return problem, fidelity_plan(settings, problem.total_images, 1e-6)


def try_one(search: Search) -> bool:
    """One trial from ask to tell; False where there is none any more."""
    step = search.ask()
    found = step is not None
    while isinstance(step, Job):
        if step.task == "finetune":
            assert search.problem.finetune is not None
            step = search.tuned(step.number, search.problem.finetune(step.config), 0.0)
            continue
        tally = search.problem.evaluate(step.config, step.start, step.stop)
        step = search.advance(step.number, tally, 0.0)
    return found


def measure(num_trials: int, sampler: str) -> Pair:
    """Seconds per evaluated trial outside evaluation, by `clocks`: (num_trials, 2)."""
    settings = SearchSettings(n_trials=num_trials, sampler=sampler)
    problem, plan = question(settings)
    times = []
    with tempfile.TemporaryDirectory() as folder:
        search = open_search(settings, problem, Path(folder) / "study.log", plan=plan)
        while len(times) < num_trials:
            begin = clocks()
            if not try_one(search):
                break
            times.append(clocks() - begin)
    return np.array(times)


def opened(num_trials: int) -> Pair:
    """Seconds, by `clocks`, that opening a study of so many finished trials takes."""
    with tempfile.TemporaryDirectory() as folder, mock.patch("os.fsync"):
        path = str(Path(folder) / "study.log")
        settings = SearchSettings(
            n_trials=num_trials, sampler="random", storage=path, study="benchmark"
        )
        problem, plan = question(settings)
        search = open_search(settings, problem, path, plan=plan)
        for _ in range(50):
            try_one(search)
        known = [r for r in search.records if r.measured]
        for number in range(search.proposals.next_number, num_trials):
            record = dataclasses.replace(known[number % len(known)], number=number)
            search.proposals.start(record)
            search.proposals.tell(record)
        search.proposals.close()
        begin = clocks()
        again = open_search(dataclasses.replace(settings, join=True), problem, path, plan=plan)
        spent = clocks() - begin
        assert len(again.records) == num_trials
        again.proposals.close()
    return spent


if __name__ == "__main__":
    main()
