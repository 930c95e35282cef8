"""The process engine: local worker processes, each with a worker of its own, doing jobs over pipes.

The driver has no thread of its own: everything happens in `submit`, `collect` and `close`.
"""

from __future__ import annotations

import contextlib
import logging
import math
import pickle
import time
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait

from autotok.errors import AutotokError, ConfigError

from .base import Job, Outcome, WorkerFactory
from .pickling import dumped, rebuilt, threads_per_worker
from .worker_process import FAREWELL_S, REIMPORTED, WorkerProcess, leave_if_reimported

_LOG = logging.getLogger(__name__)
_ATTEMPTS = 2
"""Of a job whose worker dies."""
_FEWEST = 16
"""Images that a trial's first are taken for, until one was asked for: plans give no fewer."""
_STARTS = 4
"""Workers in a row that may die while they start."""


class ProcessEngine:
    """Runs jobs in `workers` local processes.

    A job whose worker dies runs once more on a fresh one, then fails in words. Ctrl-C and the death
    of this process, of whatever kind, end the workers too.
    """

    def __init__(
        self,
        factory: WorkerFactory,
        workers: int,
        *,
        timeout_s: float | None = None,
        gpus: Sequence[str] = (),
    ) -> None:
        """Start the processes.

        Args:
            factory: Called once in each process; it must pickle.
            workers: Number of processes.
            timeout_s: An evaluation that takes longer is stopped and fails; one of more images than
                a trial's first may take longer in proportion, a fine-tune any time.
            gpus: Each process sees one of them, in turns; whatever is here, if none is named.

        Raises:
            ConfigError: `workers` is not positive, or the factory does not pickle.
        """
        leave_if_reimported()
        if workers < 1:
            raise ConfigError(f"workers is {workers}; it must be at least 1")
        self.capacity = workers
        self._timeout_s, self._first_images = timeout_s, math.inf
        self._factory = dumped(factory)
        self._threads = threads_per_worker(workers)
        self._jobs: deque[tuple[Job, int]] = deque()  # job, times it was started before
        self._done: deque[Outcome] = deque()
        self._stillborn = 0
        self._closed = False
        self._begin = time.monotonic()
        self._workers: list[WorkerProcess] = []
        for seat in range(workers):
            gpu = gpus[seat % len(gpus)] if gpus else None
            self._workers.append(WorkerProcess(self._threads, gpu))

    def start(self) -> float:
        """Wait until every worker is built; the seconds that took since this was made.

        Raises:
            AutotokError: no worker can be built; it is what the factory raised, if that was one.
        """
        with self._closing():
            while any(worker.state == "starting" for worker in self._workers):
                self._wait()
        return time.monotonic() - self._begin

    def submit(self, job: Job) -> None:
        """Take a job, and give it to a free worker if there is one."""
        self._jobs.append((job, 0))
        self._hand_out()

    def collect(self) -> Outcome:
        with self._closing():
            while not self._done:
                self._hand_out()
                self._wait()
        return self._done.popleft()

    @contextlib.contextmanager
    def _closing(self) -> Iterator[None]:
        """Ends all workers where none can be built."""
        assert not self._closed
        try:
            yield
        except AutotokError:
            self.close()
            raise

    def close(self) -> None:
        """End all workers: idle ones by closing their pipe, the others by force."""
        self._closed = True
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.dismiss()
        deadline = time.monotonic() + FAREWELL_S
        for worker in workers:
            worker.join(deadline)

    def _hand_out(self) -> None:
        for worker in self._workers:
            if not self._jobs:
                return
            if worker.state == "idle":
                job, before = self._jobs.popleft()
                worker.give(job, before + 1, self._limit_s(job))

    def _limit_s(self, job: Job) -> float | None:
        """Seconds after which a job counts as hung."""
        if self._timeout_s is None or job.task != "evaluate":
            return None
        images = max(1, job.stop - job.start)
        if job.number >= 0 and job.start == 0:  # no speed test, no control, no later part
            self._first_images = min(self._first_images, images)
        known = _FEWEST if math.isinf(self._first_images) else self._first_images
        return self._timeout_s * max(1.0, images / known)

    def _wait(self) -> None:
        """Until something happens to any worker, and deal with it."""
        deadlines = [w.deadline for w in self._workers if w.deadline is not None]
        patience = max(0.0, min(deadlines) - time.monotonic()) if deadlines else None
        ready = set(wait([x for w in self._workers for x in (w.pipe, w.sentinel)], patience))
        for index, worker in enumerate(self._workers):
            if worker.pipe in ready or worker.sentinel in ready:
                if not self._listen(worker):
                    self._workers[index] = self._after_death(worker)
            elif worker.deadline is not None and worker.deadline <= time.monotonic():
                self._workers[index] = self._after_hang(worker)

    def _listen(self, worker: WorkerProcess) -> bool:
        """Take one message; False when the worker is dead."""
        try:
            if not worker.pipe.poll():
                return False
            kind, content = worker.pipe.recv()
            if kind == "up":
                worker.pipe.send_bytes(self._factory)
        except (EOFError, OSError):
            return False
        if kind == "unable":
            raise rebuilt(*content)
        if kind == "built":
            self._stillborn = 0
        if kind == "done":
            self._done.append(pickle.loads(content))
        worker.became("starting" if kind == "up" else "idle")
        return True

    def _after_death(self, worker: WorkerProcess) -> WorkerProcess:
        """A fresh worker; the dead one's job is queued again or has failed."""
        unborn, words = worker.state == "starting", worker.last_words()
        if worker.job is None:
            if unborn:
                self._note_stillborn(worker, words)
        elif worker.attempt < _ATTEMPTS:
            _LOG.warning("%s; trial %d runs again on a fresh one", words, worker.job.number)
            self._jobs.appendleft((worker.job, worker.attempt))
        else:
            self._done.append(Outcome(worker.job, None, worker.seconds, words))
        return WorkerProcess(self._threads, worker.gpu)

    def _note_stillborn(self, worker: WorkerProcess, words: str) -> None:
        """A worker died before it was ready: another one is started, unless none ever gets there.

        Raises:
            AutotokError: the last of `_STARTS` in a row; or the script runs again in its workers.
        """
        self._stillborn += 1
        if worker.exit_code == REIMPORTED:
            raise AutotokError(
                "the script that calls this search is run again by each worker, as Python's spawn"
                " does; put its calls under `if __name__ == '__main__':`"
            )
        if self._stillborn >= _STARTS:
            raise AutotokError(
                f"{words} while it started, as {_STARTS - 1} before it did; look above for what it"
                " said, make room in memory, or search with --workers 1"
            )
        _LOG.warning("%s while it started; another one is started", words)

    def _after_hang(self, worker: WorkerProcess) -> WorkerProcess:
        assert worker.job is not None
        reason = f"no result after {worker.limit_s:g} s; its worker was stopped"
        self._done.append(Outcome(worker.job, None, worker.seconds, reason))
        worker.dismiss()
        worker.join(time.monotonic() + FAREWELL_S)
        return WorkerProcess(self._threads, worker.gpu)
