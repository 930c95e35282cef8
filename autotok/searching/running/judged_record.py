"""What a judgement, or a fine-tune, makes of a trial's record."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from autotok.config import CompressionConfig
from autotok.counting.cost import Cost
from autotok.metrics import METRICS
from autotok.searching.records.record import Score, TrialRecord
from autotok.searching.space.budget import Budget, worst_excess
from autotok.searching.space.problem import TallyLike, Tuned, to_score

_EXIT_ERRORS = 2.0
"""Standard errors by which the mean cost of exits is over the budget before a trial counts as
outside; the final evaluation takes the mean as it is."""


def judged(record: TrialRecord, tally: TallyLike, budgets: Sequence[Budget]) -> TrialRecord:
    """The record with the quality and the mean cost of all its images so far."""
    score, config = to_score(tally), getattr(tally, "judged", "")
    if config:
        record = under_config(record, CompressionConfig.from_json(config))
    record = dataclasses.replace(record, score=score)
    if score.macs_mean is None or record.costs is None:
        return record
    record = dataclasses.replace(
        record,
        costs=Cost(round(score.macs_mean), round(score.macs_noattn_mean or 0), record.costs.params),
        macs_nominal=record.costs.macs if record.macs_nominal is None else record.macs_nominal,
    )
    over = worst_excess(budgets, {**record.values, **_least_means(record, score)})
    if over <= 0.0:
        return dataclasses.replace(record, feasible=True, violation=over)
    worst = max(budgets, key=lambda budget: budget.excess_of(record.values))
    reason = _reason(worst, score) if worst.metric in ("macs", "macs_noattn") else record.reason
    return dataclasses.replace(
        record, state="infeasible", feasible=False, violation=over, reason=reason
    )


def _least_means(record: TrialRecord, score: Score) -> dict[str, float]:
    """What a configuration with exits may cost on average for all that its images tell: where
    images stop differs so much that a mean of few of them says little."""
    if record.config is None or record.config.exits is None or not score.macs_mean:
        return {}
    error = float(score.macs_std or 0.0) / math.sqrt(score.num_images)
    share = 1.0 - _EXIT_ERRORS * error / score.macs_mean
    return {m: share * record.values[m] for m in ("macs", "macs_noattn")}


def _reason(budget: Budget, score: Score) -> str:
    mean = score.macs_mean if budget.metric == "macs" else score.macs_noattn_mean
    return (
        f"over the budget of {budget.text}: it costs"
        f" {METRICS[budget.metric].in_words(float(mean or 0))},"
        f" mean over {score.num_images} images (standard deviation"
        f" {float(score.macs_std or 0):,.0f}), where {budget.limit:,.0f} are allowed"
    )


def under_config(record: TrialRecord, config: CompressionConfig) -> TrialRecord:
    """The record of another configuration than it was drafted with; the draft's id is kept."""
    if record.config is None or config == record.config:
        return record
    drafted = record.drafted or record.config.config_id
    return dataclasses.replace(record, config=config, drafted=drafted)


def after_finetune(record: TrialRecord, tuned: Tuned) -> TrialRecord:
    """The record with the configuration that its fine-tune left."""
    return (
        under_config(record, CompressionConfig.from_json(tuned.config)) if tuned.config else record
    )


def plain_tally(tally: Any) -> dict[str, Any] | None:
    """A tally, or what a fine-tune did, as plain data; None if it is no dataclass."""
    if dataclasses.is_dataclass(tally) and not isinstance(tally, type):
        return dataclasses.asdict(tally)
    return None
