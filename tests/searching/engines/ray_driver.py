"""A driver with two busy Ray workers, to be killed: python ray_driver.py FOLDER."""

import sys
from pathlib import Path

import factories

from autotok.config import CompressionConfig
from autotok.searching.engines.base import Job
from autotok.searching.engines.ray import RayEngine


def main() -> None:
    folder = Path(sys.argv[1])
    engine = RayEngine(
        factories.Workers(folder), workers=2, address=None, resources={}, storage=folder
    )
    for number in range(2):
        engine.submit(Job(number, CompressionConfig(), factories.HANG, 2000))
    engine.collect()


if __name__ == "__main__":
    main()
