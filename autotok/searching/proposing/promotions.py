"""Which configuration is worth a fine-tune, where both modes are searched.

The top rung of the fidelity ladder is a fine-tune: it costs more than everything before it, so it
goes first to the one that would be recommended without any, then where it is expected to move the
front most, above the median quality seen. Expected quality afterwards: the plug-in quality plus a
share of what is missing to the uncompressed model's, the share being the mean over the fine-tunes
of this run (one half before the first).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotok.metrics import METRICS
from autotok.searching.records.objective import Objective, losses
from autotok.searching.records.pareto import dominating, front_mask, hypervolume
from autotok.searching.records.record import TrialRecord
from autotok.searching.space.problem import TallyLike, to_score

PRIOR_RECOVERY = 0.5
MOST_RECOVERY = 1.0
"""What a fine-tune could regain at the very best: all that compression lost."""
Points = NDArray[np.float64]


def worth_tuning(
    records: Sequence[TrialRecord],
    best: TrialRecord | None,
    retrained: Collection[int],
    retraining: Collection[int],
    objectives: Sequence[Objective],
    load_tally: Callable[[Mapping[str, Any] | None], TallyLike | None],
    ceiling: float | None,
) -> TrialRecord | None:
    """The trial to fine-tune next: for the first one the `best` of all, if it lost something; see
    `next_to_tune` for the others."""
    if best is not None and best.number not in retrained and can_gain(best, ceiling):
        return best
    recovered = recoveries(records, objectives, load_tally, ceiling)
    return next_to_tune(records, retrained, retraining, objectives, recovered, ceiling)


def next_to_tune(
    records: Sequence[TrialRecord],
    retrained: Collection[int],
    retraining: Collection[int],
    objectives: Sequence[Objective],
    recovered: Sequence[float],
    ceiling: float | None = None,
) -> TrialRecord | None:
    """The plug-in trial whose fine-tune is expected to add most hypervolume; None if none would.

    Args:
        records: Finished trials.
        retrained: Numbers of the trials whose configuration had its fine-tune.
        retraining: Those under way; what they will reach counts as expected.
        objectives: The study's.
        recovered: Shares regained by the fine-tunes so far.
        ceiling: Quality of the uncompressed model; by default the best seen.
    """
    column = _quality_index(objectives, records)
    done = [r for r in records if r.measured]
    if column is None or not done:
        return None
    points = losses([r.values for r in done], objectives)
    expected = points.copy()
    best = _best_loss(points, column, objectives, ceiling)
    share = expected_recovery(recovered)
    expected[:, column] -= share * (points[:, column] - best)
    reference = points.max(axis=0) + 0.05 * np.ptp(points, axis=0) + 1e-9
    reference[column] = np.median(points[:, column]) + 1e-9  # nobody wants a front of bad models
    waiting = [i for i, r in enumerate(done) if r.number in retraining]
    front = np.concatenate([points[front_mask(points)], expected[waiting]])
    now = hypervolume(front, reference)
    gains = [
        (hypervolume(np.concatenate([front, expected[i : i + 1]]), reference) - now, -r.number, r)
        for i, r in enumerate(done)
        if r.number not in retrained and r.tuned is None and _reducible(r)
    ]
    gains = [gain for gain in gains if gain[0] > 1e-9 * max(now, 1e-9)]
    return max(gains, key=lambda gain: gain[:2])[2] if gains else None


def expected_recovery(recovered: Sequence[float]) -> float:
    """Mean share regained, the prior counting as one observation."""
    return float((PRIOR_RECOVERY + sum(recovered)) / (1 + len(recovered)))


def recoveries(
    records: Sequence[TrialRecord],
    objectives: Sequence[Objective],
    load_tally: Callable[[Mapping[str, Any] | None], TallyLike | None],
    ceiling: float | None = None,
) -> list[float]:
    """Share of what compression lost that each finished fine-tune regained."""
    column = _quality_index(objectives, records)
    done = [r for r in records if r.measured]
    if column is None or not done:
        return []
    points = losses([r.values for r in done], objectives)
    best = _best_loss(points, column, objectives, ceiling)
    sign = -1.0 if objectives[column].maximise else 1.0
    found = []
    for record, after in zip(done, points[:, column].tolist(), strict=True):
        before = load_tally(record.untuned) if record.tuned is not None else None
        if before is not None:
            value = sign * to_score(before).value
            found.append(recovery(value, after, best))
    return found


def recovery(before: float, after: float, best: float) -> float:
    """Share of the loss (lower is better) above the best seen that a fine-tune took away."""
    gap = before - best
    return float(np.clip((before - after) / gap, -1.0, 1.0)) if gap > 1e-9 else 0.0


def can_gain(record: TrialRecord, ceiling: float | None) -> bool:
    """Whether a configuration lost quality against the uncompressed model, if that is known."""
    if record.score is None or ceiling is None or not _reducible(record):
        return False
    lower = record.score.value < ceiling
    return lower if METRICS[record.score.metric].higher_is_better else record.score.value > ceiling


def can_reach_front(
    record: TrialRecord, front: Sequence[TrialRecord], objectives: Sequence[Objective]
) -> bool:
    """Whether it would be undominated if a fine-tune gave it the best quality on the front."""
    column = _quality_index(objectives, [record])
    if column is None or not front:
        return True
    points = losses([r.values for r in [*front, record]], objectives)
    own = points[-1].copy()
    own[column] -= MOST_RECOVERY * max(0.0, own[column] - points[:-1, column].min())
    return not dominating(points[:-1], own).any()


def _best_loss(
    points: Points, column: int, objectives: Sequence[Objective], ceiling: float | None
) -> float:
    """The quality that a fine-tune may hope for, lower is better."""
    seen = float(points[:, column].min())
    if ceiling is None:
        return seen
    return min(seen, -ceiling if objectives[column].maximise else ceiling)


def _reducible(record: TrialRecord) -> bool:
    """What reduces no tokens has nothing to regain, and heads of exits are not fine-tuned here."""
    config = record.config
    return config is not None and bool(record.layers) and config.exits is None


def _quality_index(objectives: Sequence[Objective], records: Sequence[TrialRecord]) -> int | None:
    """Which objective is the quality; None if none is."""
    names = {METRICS[r.score.metric].column for r in records if r.score is not None}
    return next((i for i, o in enumerate(objectives) if o.name in names), None)
