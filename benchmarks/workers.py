"""Throughput of the engines: workers that take one second per evaluation, in a whole search.

    python benchmarks/workers.py [--workers 8] [--evaluations 64] [--seconds 1.0] [local ray]
    python benchmarks/workers.py --workers 2 --demo 150

The first prints ideal and measured evaluations per second and the share reached, for the trials of
one search over a problem with fixed answers: proposals, repair, the study's log and the scheduler
all count. The start of the workers does not; it is printed beside it. The second runs the default
command within that many seconds by one process and by workers, and prints the ratio of
configurations evaluated.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "searching"))

from problems import FakeEvaluator, FakeTally, fake_problem, vit_facts

from autotok.config import CompressionConfig
from autotok.searching.engines.base import Engine, Job
from autotok.searching.engines.ray import RayEngine
from autotok.searching.engines.workers import ProcessEngine
from autotok.searching.running.events import Event, TrialFinished
from autotok.searching.running.opening import run_search
from autotok.searching.space.problem import Problem
from autotok.searching.space.settings import SearchSettings


@dataclass(frozen=True)
class Sleepers:
    """Makes problems whose evaluation sleeps."""

    seconds: float

    def __call__(self) -> Problem:
        accuracy = FakeEvaluator(vit_facts())

        def evaluate(config: CompressionConfig, start: int, stop: int) -> FakeTally:
            time.sleep(self.seconds)
            return accuracy(config, start, stop)

        return fake_problem(evaluate=evaluate)


def warm_up(engine: Engine) -> float:
    """Seconds until every worker is built: as many evaluations as workers, at the same time."""
    begin = time.perf_counter()
    for number in range(engine.capacity):
        engine.submit(Job(-9 - number, CompressionConfig(), 0, 1))
    for _ in range(engine.capacity):
        error = engine.collect().error
        assert not error, error
    return time.perf_counter() - begin


def measure(engine: Engine, evaluations: int, seconds: float, folder: Path) -> tuple[float, int]:
    """Seconds that the trials took, and the evaluations they were."""
    moments: list[float] = []
    spent: list[float] = []

    def on_event(event: Event) -> None:
        if isinstance(event, TrialFinished) and event.record.state == "complete":
            moments.append(time.perf_counter())
            spent.append(event.record.seconds)

    # every trial sees all images at once: one trial, one evaluation
    settings = SearchSettings(n_trials=evaluations, images_few=400, images_more=400, front_size=2)
    settings = SearchSettings.from_dict({**settings.to_dict(), "control_shapes": 0})
    begin = time.perf_counter()
    run_search(settings, fake_problem(), folder, on_event, engine=engine)
    assert len(moments) == evaluations
    assert min(spent) >= seconds
    return moments[-1] - begin, evaluations


@dataclass(frozen=True)
class Demo:
    """What the default command got done."""

    configurations: int
    images: int
    wall_s: float
    workers: str

    def __str__(self) -> str:
        start = f" ({self.workers})" if self.workers else ""
        return (
            f"{self.configurations} configurations, {self.images} images in trials,"
            f" {self.wall_s:.0f} s in all{start}"
        )


def run_demo(workers: int, timeout_s: float, folder: Path) -> Demo:
    """The default command by so many workers; 1 is this process."""
    command = [sys.executable, "-m", "autotok.cli", "search", "--target", "jetson-nx"]
    command += ["--timeout", str(timeout_s), "--workers", str(workers), "-o", str(folder)]
    begin = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    wall_s = time.perf_counter() - begin
    with (folder / "trials.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["num_images"]]
    said = re.search(r"\d+ workers? started in [\d.]+ s", done.stderr + done.stdout)
    images = sum(int(float(row["num_images"])) for row in rows)
    return Demo(len(rows), images, wall_s, said[0] if said else "")


def compare_demo(workers: int, timeout_s: float) -> None:
    """Prints one process beside workers, within the same time."""
    with tempfile.TemporaryDirectory() as folder:
        alone, several = (run_demo(n, timeout_s, Path(folder) / str(n)) for n in (1, workers))
    print(f"1 process: {alone}\n{workers} workers: {several}")
    print(
        f"ratio of configurations {several.configurations / max(1, alone.configurations):.2f},"
        f" of images {several.images / max(1, alone.images):.2f}; load"
        f" {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engines", nargs="*", default=["local", "ray"])
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--evaluations", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--demo", type=float, metavar="SECONDS")
    args = parser.parse_args()
    if args.demo is not None:
        compare_demo(args.workers, args.demo)
        return
    factory = Sleepers(args.seconds)
    ideal = args.workers / args.seconds
    for name in args.engines:
        with tempfile.TemporaryDirectory() as folder:
            begin, engine = time.perf_counter(), None
            if name == "local":
                engine = ProcessEngine(factory, args.workers)
            else:
                engine = RayEngine(
                    factory,
                    workers=args.workers,
                    address=None,
                    resources={},
                    storage=Path(folder),
                )
            warm_up(engine)
            start = time.perf_counter() - begin
            load = os.getloadavg()[0]
            took, done = measure(engine, args.evaluations, args.seconds, Path(folder) / "run")
            rate = done / took
            print(
                f"{name}: {args.workers} workers, {done} evaluations of {args.seconds:g} s in"
                f" {took:.1f} s; ideal {ideal:.2f}/s, measured {rate:.2f}/s,"
                f" share {100 * rate / ideal:.1f} %; start {start:.1f} s; load {load:.1f} on"
                f" {os.cpu_count()} cores"
            )


if __name__ == "__main__":
    main()
