"""`JobQueue`: where the driver leaves jobs and a scheduler in another thread leaves outcomes.

The two take turns. A scheduler that asks for a job while the driver is still thinking waits for it,
so that a worker that has become free gets the job which follows from what it found.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

from autotok.config import CompressionConfig, Primitive

from .base import Job, Outcome

LOSSES = 3
"""Workers or nodes that a job may lose before it fails."""
_PATIENCE_S = 1.0
"""With a driver that thinks; a scheduler has other things to see to."""


class JobQueue:
    """Jobs one way, outcomes the other; safe between two threads."""

    def __init__(self) -> None:
        self._turn = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._open: dict[str, tuple[Job, float]] = {}  # by ticket: job, when it was handed out
        self._done: deque[Outcome] = deque()
        self._losses: Counter[int] = Counter()  # by number of the job
        self._trouble: Exception | None = None
        self._driver_waits = False
        self._last = 0.0  # when a job was left, or an outcome
        self.closed = False

    # --- the driver's side

    def submit(self, job: Job) -> None:
        """Leave a job."""
        with self._turn:
            self._jobs.append(job)
            self._last = time.monotonic()
            self._turn.notify_all()

    def collect(self) -> Outcome:
        """Wait for an outcome.

        Raises:
            Exception: what `break_off` was given.
        """
        with self._turn:
            self._driver_waits = True
            self._turn.notify_all()
            while not self._done and self._trouble is None:
                self._turn.wait(1.0)  # with a limit, so that Ctrl-C comes through everywhere
            self._driver_waits = False
            if self._trouble is not None:
                raise self._trouble
            return self._done.popleft()

    def close(self) -> None:
        """No further jobs."""
        with self._turn:
            self.closed = True
            self._turn.notify_all()

    # --- the scheduler's side

    def next(self, ticket: str) -> Job | None:
        """The next job; None when the driver waits for outcomes, thinks for long, or has closed.

        Waits while no job is under way at all: then only the driver can make something happen.
        """
        with self._turn:
            while not self.closed and not self._jobs:
                left = self._last + _PATIENCE_S - time.monotonic()
                waits = self._driver_waits and not self._done
                if self._open and (waits or left <= 0.0):
                    return None
                self._turn.wait(max(0.01, left) if self._open else 1.0)
            if self.closed:
                return None
            job = self._jobs.popleft()
            self._open[ticket] = (job, time.perf_counter())
            return job

    def finish(self, ticket: str, outcome: Outcome) -> None:
        """Leave the outcome of a job."""
        with self._turn:
            if self._open.pop(ticket, None) is not None:
                self._leave(outcome)

    def lose(self, ticket: str) -> None:
        """The worker of a job is lost: it is handed out again, or failed after `LOSSES` times."""
        with self._turn:
            found = self._open.pop(ticket, None)
            if found is None:
                return
            job, begin = found
            self._losses[job.number] += 1
            if self._losses[job.number] <= LOSSES:
                self._jobs.appendleft(job)
                self._turn.notify_all()
                return
            lost = f"{LOSSES + 1} workers were lost with this job, perhaps out of memory"
            self._leave(Outcome(job, None, time.perf_counter() - begin, lost))

    def _leave(self, outcome: Outcome) -> None:
        del self._losses[outcome.job.number]
        self._done.append(outcome)
        self._last = time.monotonic()
        self._turn.notify_all()

    def job(self, ticket: str) -> Job | None:
        """The open job of a ticket."""
        with self._turn:
            return self._open[ticket][0] if ticket in self._open else None

    def break_off(self, error: Exception) -> None:
        """Nothing more will come: `collect` raises this."""
        with self._turn:
            self._trouble = self._trouble or error
            self._turn.notify_all()

    def __deepcopy__(self, memo: dict[int, Any]) -> JobQueue:
        """Itself: copies of a scheduler's settings must meet the same driver."""
        return self

    def __reduce__(self) -> tuple[type[JobQueue], tuple[()]]:
        """A new one: in another process there is no driver to meet."""
        return JobQueue, ()


def to_flat(job: Job) -> dict[str, Primitive]:
    """A job as plain values."""
    return {
        "number": job.number,
        "task": job.task,
        "start": job.start,
        "stop": job.stop,
        "config": job.config.to_json(),
    }


def from_flat(flat: Mapping[str, Any]) -> Job:
    """The inverse of `to_flat`."""
    config = CompressionConfig.from_json(flat["config"])
    return Job(flat["number"], config, flat["start"], flat["stop"], flat["task"])
