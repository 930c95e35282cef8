"""A search as a process of its own, to be killed: python killable.py FOLDER start|resume TRIALS."""

import os
import sys
import time
from pathlib import Path

from problems import FakeEvaluator, FakeTally, fake_problem, vit_facts

from autotok.config import CompressionConfig
from autotok.searching.running.opening import resume_search, run_search
from autotok.searching.space.settings import SearchSettings


class SlowEvaluator(FakeEvaluator):
    """Takes a moment, so that kills land inside evaluations as well as between them."""

    def __call__(self, config: CompressionConfig, start: int, stop: int) -> FakeTally:
        if os.environ.get("AUTOTOK_TEST_ABORT") == config.config_id:
            os.abort()
        time.sleep(float(os.environ.get("AUTOTOK_TEST_DELAY", "0")))
        return super().__call__(config, start, stop)


def main() -> None:
    folder, verb, trials = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    problem = fake_problem(evaluate=SlowEvaluator(vit_facts()))
    if verb == "start":
        run_search(SearchSettings(n_trials=trials, seed=5), problem, folder)
    else:
        resume_search(problem, folder)


if __name__ == "__main__":
    main()
