"""Ends what Ray started here when the process that started it is gone, however it went.

Ray's own processes notice a killed driver after seconds, its agents after half a minute. They are
told by a mark in their environment, which they inherit from one another. The watchdog is a small
process that waits for the end of a pipe; Linux only, elsewhere Ray's own means have to do.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

__all__ = ["Watchdog"]

_MARK = "AUTOTOK_RAY_STARTED_BY"
_PATIENCE_S = 5.0


class Watchdog:
    """One per Ray started here."""

    def __init__(self) -> None:
        self._mark = uuid.uuid4().hex
        self._process: subprocess.Popen[bytes] | None = None

    @contextlib.contextmanager
    def marking(self) -> Iterator[None]:
        """Processes that are started while the block runs, and theirs, end with this one."""
        if not sys.platform.startswith("linux"):
            yield
            return
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-E", __file__, f"{_MARK}={self._mark}"],
            stdin=subprocess.PIPE,
            start_new_session=True,  # what a terminal sends to the group is not for it
        )
        os.environ[_MARK] = self._mark
        try:
            yield
        finally:
            del os.environ[_MARK]

    def close(self) -> None:
        """End what is left of them now."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(2 * _PATIENCE_S)


def _marked(mark: bytes) -> list[int]:
    """Processes whose environment carries the mark; one that is dead already has none."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def _watch(mark: bytes) -> None:
    """Wait for the end of standard input, then for the end of all that carry the mark."""
    sys.stdin.buffer.read()
    deadline = time.monotonic() + _PATIENCE_S
    while (left := _marked(mark)) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


if __name__ == "__main__":
    _watch(sys.argv[1].encode())
