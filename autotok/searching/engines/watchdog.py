"""Ends what Ray started here when the process that started it is gone, however it went.

Ray's own processes notice a killed driver after seconds, its agents after half a minute. They are
told by a mark in their environment, which they inherit from one another. The watchdog is a small
process that waits for the end of a pipe; Linux only, elsewhere Ray's own means have to do.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

_MARK = "AUTOTOK_RAY_STARTED_BY"
_PATIENCE_S = 5.0
_LOOK_S = 1.0
_BEGAN = 19
"""When a process began, in clock ticks, among the fields of its stat behind the name: with it a
number that was given anew is not taken for the old one."""
_Process = tuple[int, str]


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


def _marked(mark: bytes) -> set[_Process]:
    """Processes whose environment carries the mark, and what they started."""
    found, parents = set(), dict[_Process, int]()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                process = int(entry.name), fields[_BEGAN]
                if fields[0] != "Z":
                    parents[process] = int(fields[1])
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.add(process)
    while more := {p for p, parent in parents.items() if parent in dict(found)} - found:
        found |= more
    return found & parents.keys()


def _alive(process: _Process) -> bool:
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{process[0]}/stat").read_text().rpartition(")")[2].split()
        return fields[0] != "Z" and fields[_BEGAN] == process[1]
    return False


def _watch(mark: bytes) -> None:
    """Wait for the end of standard input, then for the end of all that carried the mark.

    Who belongs here is noted all along: a process that gives itself a title, as Ray's agents do,
    writes it over its environment, and an orphan no longer shows who started it.
    """
    known = _marked(mark)
    while not select.select([sys.stdin], [], [], _LOOK_S)[0]:
        known = {p for p in known if _alive(p)} | _marked(mark)
    deadline = time.monotonic() + _PATIENCE_S
    while left := {p for p in known if _alive(p)} | _marked(mark):
        known |= left
        for pid, _ in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)


if __name__ == "__main__":
    _watch(sys.argv[1].encode())
