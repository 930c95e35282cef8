"""A driver with two busy workers, to be killed: python driver.py FOLDER."""

import signal
import sys
from pathlib import Path

import factories

from autotok.config import CompressionConfig
from autotok.searching.engines.base import Job
from autotok.searching.engines.workers import ProcessEngine


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the parent ignores
    engine = ProcessEngine(factories.Workers(Path(sys.argv[1])), 2)
    try:
        for number in range(2):
            engine.submit(Job(number, CompressionConfig(), factories.HANG, 2000))
        engine.collect()
    finally:
        engine.close()


if __name__ == "__main__":
    main()
