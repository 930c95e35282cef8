"""`Owner`: the process that works on a study, and whether it is known to be gone."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Owner"]


@dataclass(frozen=True)
class Owner:
    """A process on a machine, as a study's attribute says it."""

    host: str
    place: str
    """Boot and process namespace: only there does the process number mean anything."""
    pid: int
    started: str
    """When, by the machine's own count; a number that was given away again differs in it."""

    @classmethod
    def here(cls) -> Owner:
        """This process."""
        pid = os.getpid()
        return cls(socket.gethostname(), _place(), pid, _started(pid))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Owner:
        """From `dataclasses.asdict` of one."""
        pid = int(data.get("pid", 0))
        return cls(str(data.get("host")), str(data.get("place")), pid, str(data.get("started", "")))

    @property
    def gone(self) -> bool:
        """Whether it has surely ended; of another machine that cannot be known."""
        if (self.host, self.place) != (socket.gethostname(), _place()) or sys.platform == "win32":
            return False
        if self.place:
            return _started(self.pid) != self.started
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False


def _place() -> str:
    """Where process numbers count, on Linux; elsewhere nothing."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _started(pid: int) -> str:
    """Clock ticks after boot; empty for a process that is not there, or only its exit code is."""
    try:
        # the name, in parentheses, may hold anything
        state, *fields = Path(f"/proc/{pid}/stat").read_text("latin-1").rpartition(")")[2].split()
    except (OSError, ValueError):
        return ""
    return "" if state in "ZX" else fields[18]
