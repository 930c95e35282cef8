"""`Engine`: who runs the evaluations, and the one that does so in this process.

It takes jobs, gives outcomes, knows no study.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

from autotok.config import CompressionConfig
from autotok.errors import failure

if TYPE_CHECKING:
    from autotok.searching.space.problem import TallyLike, Tuned, Worker

WorkerFactory: TypeAlias = "Callable[[], Worker]"
"""Makes a worker in another process: must pickle, and builds everything from plain data."""


@dataclass(frozen=True)
class Workers:
    """Who evaluates and fine-tunes: this process, N processes, or a Ray cluster."""

    count: int | None = None
    """Jobs at a time; 1, or what the cluster's CPUs allow."""
    engine: str = "local"
    """'local' or 'ray'."""
    ray_address: str | None = None
    """Of a running cluster, or 'auto'; None starts Ray here, on the loopback address only."""
    resources: Mapping[str, float] = field(default_factory=dict)
    """Per job on Ray: CPU, GPU (fractions allowed), or a resource that nodes carry."""


@dataclass(frozen=True)
class Job:
    """Evaluate a configuration on images [start, stop) of the seeded order, or fine-tune it."""

    number: int
    config: CompressionConfig
    start: int = 0
    stop: int = 0
    task: str = "evaluate"
    """'evaluate', 'finetune' (which gives the weights; nothing is evaluated), 'pace' (a few steps
    of one, for their speed), 'start' (nothing)."""


@dataclass(frozen=True)
class Outcome:
    """What came of a job: a tally or a fine-tune, or the reason why there is none."""

    job: Job
    tally: TallyLike | None
    seconds: float
    error: str = ""
    tuned: Tuned | None = None


class Engine(Protocol):
    """Runs up to `capacity` jobs at a time, in any order."""

    @property
    def capacity(self) -> int:
        """Jobs that may be under way at once."""
        ...

    def start(self) -> float:
        """Wait until the workers are built; the seconds that took since the engine was made.

        Raises:
            AutotokError: no worker can be built.
        """
        ...

    def submit(self, job: Job) -> None:
        """Take a job; never more than `capacity` are open."""
        ...

    def collect(self) -> Outcome:
        """Wait for the next finished job; one that fails in any way has `error` set.

        Raises:
            AutotokError: no worker can be built, or what runs them is gone.
        """
        ...

    def close(self) -> None:
        """Stop and free everything."""
        ...


def run_job(worker: Worker, job: Job) -> Outcome:
    """Do a job here; whatever it raises becomes the outcome's error."""
    begin = time.perf_counter()
    tally, tuned, error = None, None, ""
    try:
        if job.task == "finetune":
            assert worker.finetune is not None
            tuned = worker.finetune(job.config)
        elif job.task == "pace":
            assert worker.pace is not None
            tuned = worker.pace(job.config)
        elif job.task == "evaluate":
            tally = worker.evaluate(job.config, job.start, job.stop)
    except KeyboardInterrupt:
        raise
    except BaseException as raised:  # a trial may fail in any way, SystemExit; the search goes on
        error = failure(raised)
    return Outcome(job, tally, time.perf_counter() - begin, error, tuned)


class InProcessEngine:
    """Runs jobs here, one at a time, in the order submitted, when an outcome is asked for."""

    capacity = 1

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._jobs: deque[Job] = deque()

    def start(self) -> float:
        return 0.0

    def submit(self, job: Job) -> None:
        self._jobs.append(job)

    def collect(self) -> Outcome:
        """Run the oldest job; whatever it raises becomes the outcome's error."""
        return run_job(self._worker, self._jobs.popleft())

    def close(self) -> None:
        """Nothing is held."""
