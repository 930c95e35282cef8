"""`TrialBuilder`: which trial comes next, as a record ready to be evaluated: decoded and repaired.

Where both modes are searched, trials are plugged in first. The top rung of the fidelity ladder is a
fine-tune: it costs more than everything before it, so it goes where it is expected to move the
front most, above the median quality seen. Expected quality afterwards: the plug-in quality plus a
share of what is missing to the uncompressed model's, the share being the mean over the fine-tunes
of this run (one half before the first).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property, lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotok.compression.calibrate import unsettled
from autotok.config import MODES, CompressionConfig, Primitive
from autotok.errors import AutotokError
from autotok.methods.learning import options_when_chosen
from autotok.methods.registry import get_method
from autotok.metrics import METRICS
from autotok.searching.records.objective import Objective, losses, make_objectives
from autotok.searching.records.pareto import dominating, front_mask, hypervolume
from autotok.searching.records.record import TrialRecord
from autotok.searching.space.budget import worst_excess
from autotok.searching.space.finetuning import auto_steps
from autotok.searching.space.parameters import Params
from autotok.searching.space.problem import Problem, TallyLike, to_score
from autotok.searching.space.settings import FidelityPlan, SearchSettings
from autotok.searching.space.warm_starts import warm_starts

from .earlier import front_again
from .proposals import Proposals
from .repair import Repaired, repair
from .surrogate import Known, Surrogate

_REPAIRS = 256
"""Proposals whose repair is remembered."""
_ATTEMPTS = 6
"""At a proposal that is not known yet; the late ones are random."""
PRIOR_RECOVERY = 0.5
MOST_RECOVERY = 1.0
"""What a fine-tune could regain at the very best: all that compression lost."""
Points = NDArray[np.float64]


class TrialBuilder:
    """Drafts trials from proposals; knows every configuration that was drafted before."""

    def __init__(self, settings: SearchSettings, problem: Problem, proposals: Proposals) -> None:
        self._settings, self._problem, self._proposals = settings, problem, proposals
        self.known: dict[str, TrialRecord] = {}
        """Trials by the id of their configuration."""
        noted = proposals.noted("earlier") or ()
        self._earlier = [TrialRecord.from_dict(data) for data in noted]
        self._objectives = make_objectives(settings.objectives, problem.metric)
        again = front_again(self._earlier, problem, self._objectives)
        wholes, published = self._warm_starts()
        self._starts: list[Params | None] = [*again, *wholes, *published]
        untaught = len(again) + len(wholes)
        self._surrogate = self._learner(untaught) if settings.sampler == "auto" else None
        # what promises most turns out to be a known configuration again and again; predictions
        # follow what was measured, and are asked anew
        kept = _REPAIRS if problem.predict is None else 0
        self._repaired = lru_cache(kept)(partial(_repaired, problem))

    @property
    def promotes(self) -> bool:
        """Whether both modes are searched: plug-in first, fine-tunes where they promise most."""
        return set(self._problem.space.mode) == set(MODES)

    def _learner(self, untaught: int) -> Surrogate:
        """What chooses proposals after those tried again and the uncompressed models."""
        starts = [p for p in self._starts if p is not None]
        self._starts = self._starts[:untaught]
        return Surrogate(self._problem, self._objectives, starts, self._settings.seed)

    def proposal(
        self, number: int, plan: FidelityPlan, ceiling: float | None = None
    ) -> TrialRecord:
        """What the sampler, or a published default, proposes as trial `number`.

        `ceiling` is the quality of the uncompressed model, where it is known.
        """
        fixed: Mapping[str, Primitive] | None = None
        origin = "sampler"
        if number < len(self._starts):
            origin, fixed = "warm-start", self._starts[number]
            if fixed is None:
                return self._record(number, {}, self.uncompressed(), origin)
        record = None
        for attempt in range(_ATTEMPTS):
            if attempt or fixed is None:
                origin, fixed = "sampler", self._chosen(number, attempt, ceiling)
            record = self._attempt(number, attempt, fixed, origin, plan)
            if record.state != "duplicate":
                break
        assert record is not None
        return record

    def _chosen(self, number: int, attempt: int, ceiling: float | None) -> Params | None:
        """The surrogate's answer; None leaves it to the sampler."""
        if self._surrogate is None:
            return None
        return self._surrogate.propose(number, attempt, lambda: self._known(ceiling))

    def _known(self, ceiling: float | None) -> Known:
        """All that a proposal may rest on."""
        records, numbers = list(self._proposals.records), self._proposals.running
        known = self.known.values() if numbers else ()
        running = {
            r.number: r
            for r in known
            if r.number in numbers and r.config is not None and r.base is None
        }
        return Known(records, [running[n] for n in sorted(running)], self._earlier, ceiling)

    def _attempt(
        self,
        number: int,
        attempt: int,
        fixed: Mapping[str, Primitive] | None,
        origin: str,
        plan: FidelityPlan,
    ) -> TrialRecord:
        if self.promotes:
            fixed = {**(fixed or {}), "mode": "plug-in"}
        params = self._proposals.propose(number, attempt=attempt, fixed=fixed)
        try:
            repaired = self._repaired(tuple(params.items()))
        except AutotokError as error:
            return TrialRecord(
                number, "failed", None, params=params, origin=origin, reason=str(error)
            )
        if params["mode"] == "retrain":
            repaired = self._retrain(repaired, params, plan)
        return self._record(number, params, repaired, origin)

    def promotion(
        self, number: int, base: TrialRecord, plan: FidelityPlan, *, first: bool
    ) -> TrialRecord:
        """Trial `number`: an earlier one's configuration, retrained; how, the sampler proposes.

        The `first` of a run trains as the space's first answers say.
        """
        fixed: dict[str, Primitive] = {**base.params, "mode": "retrain"}
        if first:
            fixed.update(self._problem.space.finetune.first())
        params = self._proposals.propose(number, fixed=fixed)
        assert base.config is not None
        config = unsettled(base.config)
        costs = self._problem.costs.cost(config)
        repaired = Repaired(
            *(config, base.layers, base.counts, costs, base.predicted, base.violation)
        )
        if params["mode"] == "retrain":  # a condition of the space may forbid it
            repaired = self._retrain(repaired, params, plan)
        record = self._record(number, params, repaired, "promotion")
        return dataclasses.replace(record, base=base.number)

    def _retrain(self, repaired: Repaired, params: Params, plan: FidelityPlan) -> Repaired:
        """The same configuration, to be fine-tuned as the proposal says."""
        if repaired.config is None or repaired.costs is None or not repaired.layers:
            return repaired
        choices = self._problem.space.finetune
        share = choices.teacher_share(params, plan.finetunes)
        teacher_macs = share * self.uncompressed_macs
        steps = auto_steps(
            plan.finetune_macs, repaired.costs.macs, teacher_macs, choices.batch_size(params)
        )
        config = dataclasses.replace(
            repaired.config,
            mode="retrain",
            finetune=choices.spec(params, steps),
            options={
                **repaired.config.options,
                **options_when_chosen(get_method(repaired.config.method)),
            },
        )
        return dataclasses.replace(repaired, config=config)

    def _record(self, number: int, params: Params, repaired: Repaired, origin: str) -> TrialRecord:
        state, reason = "running", repaired.reason
        if repaired.config is None:
            state = "infeasible"
        known = None if repaired.config is None else self.known.get(repaired.config.config_id)
        if known is not None:
            state, reason = "duplicate", f"same configuration as trial {known.number}"
        return TrialRecord(
            number=number,
            state=state,
            config=repaired.config,
            layers=repaired.layers,
            counts=repaired.counts,
            costs=repaired.costs,
            predicted=repaired.predicted,
            feasible=repaired.feasible,
            violation=repaired.violation,
            params=params,
            origin=origin,
            seed=self._settings.seed,
            reason=reason,
            duplicate_of=None if known is None else known.number,
        )

    # --- the uncompressed model, and where to start

    def _warm_starts(self) -> tuple[list[Params | None], list[Params]]:
        """(uncompressed models inside the budget, of which None is the first or only backbone's;
        the proposals to go on with)."""
        space = self._problem.space
        starts = warm_starts(space, self._problem.facts)
        wholes: list[Params | None] = [None] if self.uncompressed().violation <= 0.0 else []
        if not space.backbones:
            return wholes, starts
        further = {name for name in space.names()[1:] if self.uncompressed(name).violation <= 0.0}
        plain = [p for p in starts if p["method"] == "none"]
        wholes += [p for p in plain if p["backbone"] in further]
        return wholes, [p for p in starts if p not in plain]

    @cached_property
    def uncompressed_macs(self) -> int:
        """Of one image, at the default subnet."""
        return self._problem.costs.cost(self._problem.whole).macs

    def uncompressed(self, backbone: str = "") -> Repaired:
        """The model as it is, with its violation of the budget if any; of several backbones the
        first by default."""
        config = CompressionConfig(backbone=backbone) if backbone else self._problem.whole
        costs = self._problem.costs.cost(config)
        predicted = dict(self._problem.predict(config)) if self._problem.predict else {}
        found = Repaired(config, costs=costs, predicted=predicted)
        over = worst_excess(self._problem.budgets, found.values)
        return dataclasses.replace(found, violation=over)


def _repaired(problem: Problem, answers: tuple[tuple[str, Primitive], ...]) -> Repaired:
    """What a proposal comes to inside the budgets.

    Raises:
        ConfigError, IncompatibleMethod: it cannot be.
    """
    params = dict(answers)
    shape = problem.space.decode(params, problem.facts)
    return repair(shape, float(params["budget_fraction"]), problem)


# --- which configuration is worth a fine-tune


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
    """The uncompressed model has nothing to regain; heads of exits are not fine-tuned here."""
    whole = CompressionConfig(backbone=record.backbone)
    return record.config not in (None, whole) and getattr(record.config, "exits", None) is None


def _quality_index(objectives: Sequence[Objective], records: Sequence[TrialRecord]) -> int | None:
    """Which objective is the quality; None if none is."""
    names = {METRICS[r.score.metric].column for r in records if r.score is not None}
    return next((i for i, o in enumerate(objectives) if o.name in names), None)
