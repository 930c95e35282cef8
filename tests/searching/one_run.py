"""A search in a shared storage, for tests: python one_run.py URL FOLDER TRIALS SEED."""

import sys

from problems import fake_problem

from autotok.searching.running.opening import run_search
from autotok.searching.space.settings import SearchSettings


def main() -> None:
    storage, folder, trials, seed = sys.argv[1:]
    settings = SearchSettings(n_trials=int(trials), seed=int(seed), storage=storage)
    run_search(settings, fake_problem(), folder)


if __name__ == "__main__":
    main()
