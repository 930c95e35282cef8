"""The in-process engine: one job at a time, when its outcome is asked for."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from autotok.config import CompressionConfig

from ..problem import TallyLike
from .base import Job, Outcome, failure

__all__ = ["InProcessEngine"]


class InProcessEngine:
    """Runs jobs here, in the order submitted."""

    capacity = 1

    def __init__(self, evaluate: Callable[[CompressionConfig, int, int], TallyLike]) -> None:
        self._evaluate = evaluate
        self._jobs: deque[Job] = deque()

    def submit(self, job: Job) -> None:
        """Queue a job."""
        self._jobs.append(job)

    def collect(self) -> Outcome:
        """Run the oldest job; whatever it raises becomes the outcome's error."""
        job = self._jobs.popleft()
        begin = time.perf_counter()
        try:
            tally, error = self._evaluate(job.config, job.start, job.stop), ""
        except Exception as raised:  # a trial may fail in any way; the search goes on
            tally, error = None, failure(raised)
        return Outcome(job, tally, time.perf_counter() - begin, error)

    def close(self) -> None:
        """Nothing is held."""
