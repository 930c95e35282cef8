"""What a running search tells whoever listens: plain facts, enough to draw progress from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from autotok.config import CompressionConfig
from autotok.metrics import METRICS
from autotok.searching.records.record import TrialRecord
from autotok.searching.space.budget import Budget, BudgetRequest

CONTROLS = {"control": "random control", "smaller image": "control on smaller images"}
"""What records of these origins are, in words."""


@dataclass(frozen=True)
class Event:
    """Base: `progress` is the share of the whole search done, 0 to 1."""

    progress: float


@dataclass(frozen=True)
class Asked(Event):
    """What is asked can be, and nothing is loaded yet; these are its budgets."""

    budgets: tuple[BudgetRequest, ...]


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
    """A model of the final evaluation has seen more images; so many are in the race with it.

    How many are to come nobody knows: whatever is told from the best drops out.
    """

    record: TrialRecord
    racing: int


@dataclass(frozen=True)
class Done(Event):
    """The search is over and everything is written."""

    evaluated: int
    front: int
    stopped_by: str
    """'n_trials', 'timeout_s' or 'exhausted'."""


OnEvent = Callable[[Event], None]


def event_text(event: Event) -> tuple[str, bool]:
    """(what to say of an event, whether it must not be passed over)."""
    if isinstance(event, Working):
        return event.text, True
    if isinstance(event, Started):
        again = f", {event.finished} trials are there already" if event.resumed else ""
        return f"up to {event.n_trials} configurations{again}", True
    if isinstance(event, BudgetsResolved):
        return f"budget: {'; '.join(b.echo for b in event.budgets)}", True
    if isinstance(event, TrialFinished):
        so_far = f"{event.evaluated} configurations evaluated, {event.front} on the front"
        return f"{so_far}; last: {trial_text(event.record)}", False
    if isinstance(event, Promoted):
        return f"trial {event.number} is undominated: on to {event.num_images} images", False
    if isinstance(event, FineTuneStep):
        return event.text, False
    if isinstance(event, FineTuning):
        method = event.config.method
        return f"fine-tuning {method} for {event.length} (trial {event.number})", True
    if isinstance(event, FinalEvaluation):
        what = CONTROLS.get(event.record.origin) or f"{event.racing} models in the race"
        return f"final evaluation, {what}: {trial_text(event.record)}", True
    if isinstance(event, Done):
        return f"{event.evaluated} configurations evaluated, {event.front} on the front", True
    return "", False


def trial_text(record: TrialRecord) -> str:
    """A trial in a few words."""
    method = record.config.method if record.config is not None else "?"
    method += f" ({record.details})" if record.details else ""
    if record.score is None:
        return f"{method} {record.state} {record.reason}".strip()
    score, quality = record.score, METRICS[record.score.metric].text(record.score.value)
    macs = ""
    if record.costs is not None:
        macs = f", {METRICS['macs'].number(record.costs.macs / 1e9)} GFLOPs"
    return f"{method} {score.metric} {quality} on {score.num_images} images{macs}"
