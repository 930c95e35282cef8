"""What a running search tells whoever listens: plain facts, enough to draw progress from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from autotok.config import CompressionConfig
from autotok.searching.records.record import TrialRecord
from autotok.searching.space.budget import Budget

__all__ = [
    "BudgetsResolved",
    "Done",
    "Event",
    "FinalEvaluation",
    "FineTuneStep",
    "FineTuning",
    "OnEvent",
    "Promoted",
    "Started",
    "TrialFinished",
    "Working",
]


@dataclass(frozen=True)
class Event:
    """Base: `progress` is the share of the whole search done, 0 to 1."""

    progress: float


@dataclass(frozen=True)
class Working(Event):
    """Something around the trials that takes seconds: loading, exporting, writing."""

    text: str


@dataclass(frozen=True)
class Started(Event):
    """The study is open; `finished` trials were there already."""

    n_trials: int
    finished: int
    resumed: bool


@dataclass(frozen=True)
class BudgetsResolved(Event):
    """The limits that hold for the whole run, shares resolved against what was measured."""

    budgets: tuple[Budget, ...]


@dataclass(frozen=True)
class TrialFinished(Event):
    """A trial is recorded; so far `evaluated` configurations, `front` of them on the front."""

    record: TrialRecord
    evaluated: int
    front: int


@dataclass(frozen=True)
class Promoted(Event):
    """A trial that nothing dominates gets more images."""

    number: int
    num_images: int


@dataclass(frozen=True)
class FineTuning(Event):
    """A fine-tune of a configuration begins."""

    number: int
    config: CompressionConfig
    length: str


@dataclass(frozen=True)
class FineTuneStep(Event):
    """Where the fine-tune under way stands, in words; only from this process's own."""

    text: str


@dataclass(frozen=True)
class FinalEvaluation(Event):
    """One configuration of the final evaluation is done, `done` of `total`."""

    record: TrialRecord
    done: int
    total: int


@dataclass(frozen=True)
class Done(Event):
    """The search is over and everything is written."""

    evaluated: int
    front: int
    stopped_by: str
    """'n_trials', 'timeout_s' or 'exhausted'."""


OnEvent = Callable[[Event], None]
