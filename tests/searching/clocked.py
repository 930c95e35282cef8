"""Workers on a clock of their own, and time limits that go by it."""

from collections import deque
from types import SimpleNamespace

import pytest
from problems import FakeEvaluator, vit_facts

from autotok.searching.engines.base import Job, Outcome


class Workers:
    """Workers on a clock of their own: a second passes when the test says so."""

    def __init__(
        self, capacity: int, *, image_s: float, batch_s: float | None = None, start_s: float = 0.0
    ) -> None:
        """An image takes `image_s` alone, `batch_s` among others."""
        self.capacity, self.now = capacity, 0.0
        self.asked: list[Job] = []
        self._image_s, self._start_s = image_s, start_s
        self._batch_s = image_s if batch_s is None else batch_s
        self._open: deque[Job] = deque()
        self._accuracy = FakeEvaluator(vit_facts())

    def monotonic(self) -> float:
        return self.now

    def start(self) -> float:
        self.now += self._start_s
        return self._start_s

    def submit(self, job: Job) -> None:
        assert len(self._open) < self.capacity
        self._open.append(job)
        self.asked.append(job)

    def collect(self) -> Outcome:
        job = self._open.popleft()
        images = job.stop - job.start
        spent = images * (self._image_s if images == 1 else self._batch_s)
        self.now += spent / self.capacity
        return Outcome(job, self._accuracy(job.config, job.start, job.stop), spent)

    def close(self) -> None:
        """Nothing is held."""


def follow(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let time limits go by the workers' clock."""
    clock = SimpleNamespace(monotonic=workers.monotonic)
    for module in ("time_limit", "final_evaluation", "final_controls"):
        monkeypatch.setattr(f"autotok.searching.running.{module}.time", clock)
