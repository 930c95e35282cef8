"""`Ask`: a job the search wants done. `Flight`: a trial under way, and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass

from autotok.config import CompressionConfig

from .problem import TallyLike, Tuned
from .record import TrialRecord

__all__ = ["Ask", "Flight"]


@dataclass(frozen=True)
class Ask:
    """A configuration to evaluate on images [start, stop)."""

    number: int
    config: CompressionConfig
    start: int = 0
    stop: int = 0
    task: str = "evaluate"
    """'finetune' asks for the weights first."""


@dataclass
class Flight:
    record: TrialRecord
    tally: TallyLike | None = None
    stop: int = 0
    seconds: float = 0.0
    untuned: TallyLike | None = None
    tuned: Tuned | None = None

    @property
    def config(self) -> CompressionConfig:
        assert self.record.config is not None
        return self.record.config
