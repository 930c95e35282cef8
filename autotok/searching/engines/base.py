"""`Engine`: who runs the evaluations. It takes jobs, gives outcomes, knows no study."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from autotok.config import CompressionConfig

from ..problem import TallyLike

__all__ = ["Engine", "Job", "Outcome", "failure"]


@dataclass(frozen=True)
class Job:
    """Evaluate one configuration on images [start, stop) of the seeded order."""

    number: int
    config: CompressionConfig
    start: int
    stop: int


@dataclass(frozen=True)
class Outcome:
    """What came of a job: a tally, or the reason why there is none."""

    job: Job
    tally: TallyLike | None
    seconds: float
    error: str = ""


class Engine(Protocol):
    """Runs up to `capacity` jobs at a time, in any order."""

    @property
    def capacity(self) -> int:
        """Jobs that may be under way at once."""
        ...

    def submit(self, job: Job) -> None:
        """Take a job; never more than `capacity` are open."""
        ...

    def collect(self) -> Outcome:
        """Wait for the next finished job; one that fails in any way has `error` set."""
        ...

    def close(self) -> None:
        """Stop and free everything."""
        ...


def failure(error: Exception) -> str:
    """An exception as one line."""
    lines = str(error).strip().splitlines()
    words = f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
    return (
        f"out of memory ({words})"
        if "out of memory" in words or isinstance(error, MemoryError)
        else words
    )
