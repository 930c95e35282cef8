"""Whether a process ended itself: what Python writes of a fatal signal, kept beside the study.

A trial whose code aborts or touches memory that is not its own ends the process each time it runs;
a process killed from outside says nothing of the trial it was in.
"""

from __future__ import annotations

import contextlib
import faulthandler
import sys
from collections.abc import Iterator
from pathlib import Path

_NAME = ".fault"


def crashed_before(folder: Path) -> bool:
    """Whether the last process that worked in a run's folder ended by a fatal signal of its own."""
    try:
        return (folder / _NAME).stat().st_size > 0
    except OSError:
        return False


@contextlib.contextmanager
def faults_told(folder: Path) -> Iterator[None]:
    """Has Python write down a fatal signal in a run's folder, until the block ends."""
    path, enabled = folder / _NAME, faulthandler.is_enabled()
    with open(path, "wb") as file:
        faulthandler.enable(file, all_threads=False)
        try:
            yield
        finally:
            faulthandler.disable()
            if enabled and sys.__stderr__ is not None:
                with contextlib.suppress(OSError, ValueError):  # no stream to write to any more
                    faulthandler.enable(sys.__stderr__)
    path.unlink(missing_ok=True)
