"""The in-process engine: one job at a time, when its outcome is asked for."""

from __future__ import annotations

from collections import deque

from autotok.searching.space.problem import Worker

from .base import Job, Outcome, run_job

__all__ = ["InProcessEngine"]


class InProcessEngine:
    """Runs jobs here, in the order submitted."""

    capacity = 1

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._jobs: deque[Job] = deque()

    def start(self) -> float:
        """At once."""
        return 0.0

    def submit(self, job: Job) -> None:
        """Queue a job."""
        self._jobs.append(job)

    def collect(self) -> Outcome:
        """Run the oldest job; whatever it raises becomes the outcome's error."""
        return run_job(self._worker, self._jobs.popleft())

    def close(self) -> None:
        """Nothing is held."""
