"""`Job`: what the search wants done. `OpenTrial`: a trial under way, and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass

from autotok.config import CompressionConfig
from autotok.searching.records.record import TrialRecord
from autotok.searching.space.problem import TallyLike, Tuned

__all__ = ["OpenTrial", "Job"]


@dataclass(frozen=True)
class Job:
    """Evaluate a configuration on images [start, stop) of the seeded order, or fine-tune it."""

    number: int
    config: CompressionConfig
    start: int = 0
    stop: int = 0
    task: str = "evaluate"
    """'evaluate', 'finetune' (which gives the weights; nothing is evaluated), 'start' (neither)."""


@dataclass
class OpenTrial:
    record: TrialRecord
    tally: TallyLike | None = None
    stop: int = 0
    seconds: float = 0.0
    untuned: TallyLike | None = None
    tuned: Tuned | None = None

    @property
    def needs_finetune(self) -> bool:
        """Whether it is to be fine-tuned and was not yet."""
        return self.config.mode == "retrain" and self.tuned is None

    @property
    def config(self) -> CompressionConfig:
        assert self.record.config is not None
        return self.record.config
