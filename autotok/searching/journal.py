"""The journal file of a killed process, made usable again."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["repair_journal"]


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
        block = min(size, 1 << 20)
        file.seek(size - block)
        tail = file.read(block)
        if tail and not tail.endswith(b"\n"):
            file.truncate(size - block + tail.rfind(b"\n") + 1)
