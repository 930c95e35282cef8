"""How long a search spends per trial outside evaluation, as trials add up.

    python benchmarks/search_overhead.py [--trials 1000] [--sampler tpe]

The evaluation is a formula that takes no time; the bar is 15 ms per trial at trial 1,000 (median of
the last 100), journal writes included.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "searching"))

from problems import FakeEvaluator, fake_problem, vit_facts

from autotok.searching.engines.base import Job
from autotok.searching.running.opening import open_search
from autotok.searching.space.settings import SearchSettings, fidelity_plan


def main() -> None:
    """Run and print one line per hundred trials."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--sampler", default="tpe")
    arguments = parser.parse_args()
    times = measure(arguments.trials, arguments.sampler)
    for start in range(0, len(times), 100):
        part = times[start : start + 100] * 1e3
        middle, high = np.median(part), np.quantile(part, 0.95)
        print(f"trials {start:5d}-{start + len(part) - 1:5d}: {middle:6.2f} ms, p95 {high:6.2f} ms")


def measure(num_trials: int, sampler: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Seconds per evaluated trial outside evaluation, (num_trials,)."""
    settings = SearchSettings(n_trials=num_trials, sampler=sampler)
    evaluator = FakeEvaluator(vit_facts())
    problem = fake_problem(evaluate=evaluator, finetune=evaluator.finetune)
    plan = fidelity_plan(settings, problem.total_images, 1e-6)
    times = []
    with tempfile.TemporaryDirectory() as folder:
        search = open_search(settings, problem, Path(folder) / "study.log", plan=plan)
        while len(times) < num_trials:
            begin = time.perf_counter()
            step = search.ask()
            if step is None:
                break
            while isinstance(step, Job):
                if step.task == "finetune":
                    assert problem.finetune is not None
                    step = search.tuned(step.number, problem.finetune(step.config), 0.0)
                    continue
                tally = problem.evaluate(step.config, step.start, step.stop)
                step = search.advance(step.number, tally, 0.0)
            times.append(time.perf_counter() - begin)
    return np.array(times)


if __name__ == "__main__":
    main()
