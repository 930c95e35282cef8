"""One local worker process: as its driver sees it, and what it does itself.

Processes are spawned, not forked, because the threads of torch do not survive a fork.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait

from autotok.interrupts import SIGNALS

from .base import Job, run_job
from .pickling import build_error, packed, use_threads

# no code that Python, a shell or a signal gives
REIMPORTED = 86
"""Exit code of a worker that found itself running the caller's script again."""
FAREWELL_S = 1.0
_CONTEXT = multiprocessing.get_context("spawn")


class WorkerProcess:
    """One worker process, seen from the driver: 'starting', 'idle', 'busy' or 'dead'."""

    def __init__(self, threads: int, gpu: str | None = None) -> None:
        self.state, self.gpu = "starting", gpu
        self.job: Job | None = None
        self.attempt = 0
        self.deadline: float | None = None
        self.limit_s: float | None = None
        self.exit_code = 0
        self._begin = 0.0
        self.pipe, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(
            target=_serve, args=(theirs, threads), daemon=True, name="autotok-worker"
        )
        with _child_env(threads, gpu):
            self._process.start()
        theirs.close()

    @property
    def sentinel(self) -> int:
        """Ready when the process has ended."""
        return self._process.sentinel

    @property
    def seconds(self) -> float:
        """Since the job was given."""
        return time.perf_counter() - self._begin

    def give(self, job: Job, attempt: int, limit_s: float | None) -> None:
        """Send a job; should the worker be dead, its sentinel tells."""
        self.state, self.job, self.attempt = "busy", job, attempt
        self._begin, self.limit_s = time.perf_counter(), limit_s
        self.deadline = None if limit_s is None else time.monotonic() + limit_s
        with contextlib.suppress(OSError):
            self.pipe.send(job)

    def became(self, state: str) -> None:
        """Note what the worker said of itself."""
        self.state, self.job, self.deadline = state, None, None

    def last_words(self) -> str:
        """Why it died, in words; waits for its end."""
        self.state = "dead"
        self.pipe.close()
        self._process.join(FAREWELL_S)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        code = self.exit_code = self._process.exitcode or 0
        self._process.close()
        if code >= 0:
            return f"worker ended with exit code {code}"
        hint = ", perhaps out of memory" if -code == signal.SIGKILL else ""
        return f"worker died with signal {-code}{hint}"

    def dismiss(self) -> None:
        """An idle worker leaves when its pipe closes; any other is killed."""
        self.pipe.close()
        if self.state in ("starting", "busy"):
            self._process.kill()

    def join(self, deadline: float) -> None:
        """Wait for its end, until the deadline gently."""
        if self.state == "dead":
            return
        self._process.join(max(0.0, deadline - time.monotonic()))
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        self._process.close()


@contextlib.contextmanager
def _child_env(threads: int, gpu: str | None) -> Iterator[None]:
    """What a child inherits: its number of threads, its GPU, and deafness to `SIGNALS` from the
    start."""
    own = {"OMP_NUM_THREADS": str(threads)}
    own |= {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    masked = None
    if sys.platform != "win32":
        importlib.import_module("multiprocessing.resource_tracker").ensure_running()
        masked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        if masked is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, masked)


# --- in the worker process


def leave_if_reimported() -> None:
    """End this process if it is a worker that is still importing the script which started it.

    That script lacks the guard `if __name__ == '__main__':`; the driver is told by the exit code.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        os._exit(REIMPORTED)


def _serve(pipe: Connection, threads: int) -> None:
    """Build the worker, then do jobs until the driver closes the pipe or is gone."""
    for number in SIGNALS:  # a terminal, or `timeout`, sends them to the whole group
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, OSError):  # the driver is gone
        pipe.send(("up", None))
        try:
            worker = pickle.loads(pipe.recv_bytes())()
        except (
            BaseException
        ) as error:  # SystemExit too: told to the driver, where it ends the search
            pipe.send(("unable", build_error(error)))
            return
        use_threads(threads)
        pipe.send(("built", None))
        while True:
            pipe.send(("done", packed(run_job(worker, pipe.recv()))))


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
