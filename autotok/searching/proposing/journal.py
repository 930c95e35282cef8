"""The journal file of a killed process, made usable again."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import IO

if sys.platform != "win32":
    import fcntl

__all__ = ["hold_journal", "repair_journal"]

_BLOCK = 1 << 20


def hold_journal(path: Path) -> IO[bytes]:
    """The journal, repaired unless another process has it open; held for as long as it is open.

    A lock or an unfinished line of a live process is its own affair.
    """
    file = open(path, "ab")
    if _locked(file, exclusive=True):
        repair_journal(path)
    _locked(file, exclusive=False)
    return file


def _locked(file: IO[bytes], *, exclusive: bool) -> bool:
    """Try to lock for oneself, or share; True as well where nobody can tell."""
    if sys.platform != "win32":
        kind = fcntl.LOCK_EX | fcntl.LOCK_NB if exclusive else fcntl.LOCK_SH
        try:
            fcntl.flock(file, kind)
        except BlockingIOError:
            return False
        except OSError:  # a file system without such locks
            pass
    return True


def repair_journal(path: Path) -> None:
    """Make a journal usable that a killed process left: no stale lock, no half-written last line.

    A line is one whole operation: cutting an unfinished one loses nothing that was confirmed.
    """
    if not path.exists():
        return
    for stale in path.parent.glob(f"{path.name}.lock*"):
        stale.unlink(missing_ok=True)
    with open(path, "rb+") as file:
        size = file.seek(0, os.SEEK_END)
        whole = _whole_lines(file, size)
        if whole < size:
            file.truncate(whole)


def _whole_lines(file: IO[bytes], size: int) -> int:
    """Bytes up to and with the last line break, however long what follows it is."""
    end = size
    while end > 0:
        begin = max(0, end - _BLOCK)
        file.seek(begin)
        found = file.read(end - begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0
