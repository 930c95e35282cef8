"""`Search`: ask -> decode -> repair -> gate -> evaluate -> promote -> tell.

Holds no model and runs nothing: `ask` gives configurations to evaluate, `advance` takes tallies and
says whether more images are wanted, `fail` takes reasons. Decisions depend on finished trials only.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from autotok.config import CompressionConfig, Primitive
from autotok.errors import AutotokError

from .objective import Objective, losses, make_objectives
from .pareto import front_mask
from .problem import Problem, TallyLike, to_score
from .proposals import Proposals
from .record import Score, TrialRecord
from .repair import Repaired, repair
from .settings import Plan, SearchSettings
from .space import Params
from .warm import warm_starts

__all__ = ["Ask", "Search", "front_of"]

_LOG = logging.getLogger(__name__)
_ATTEMPTS = 6
_FRUITLESS = 40
"""Proposals in a row without a new configuration after which the space counts as exhausted."""


@dataclass(frozen=True)
class Ask:
    """A configuration to evaluate on images [start, stop)."""

    number: int
    config: CompressionConfig
    start: int
    stop: int


@dataclass
class _Flight:
    record: TrialRecord
    tally: TallyLike | None = None
    stop: int = 0
    seconds: float = 0.0


class Search:
    """One study under way."""

    def __init__(
        self, settings: SearchSettings, problem: Problem, proposals: Proposals, plan: Plan
    ) -> None:
        self.settings, self.problem, self.plan = settings, problem, plan
        self.proposals = proposals
        self.objectives: tuple[Objective, ...] = make_objectives(
            settings.objectives, problem.metric
        )
        self._flights: dict[int, _Flight] = {}
        self._known: dict[str, TrialRecord] = {}
        self._front: list[TrialRecord] = []
        self._fruitless = self._evaluated = 0
        for record in proposals.records:
            self._count(record)
        self.tallies: dict[int, TallyLike] = {}
        self._starts = self._warm_starts()

    # --- what is known

    @property
    def records(self) -> list[TrialRecord]:
        """Finished trials in logical order."""
        return sorted(self.proposals.records, key=lambda r: r.number)

    @property
    def evaluated(self) -> int:
        """Different configurations that were evaluated, or tried and failed."""
        return self._evaluated

    @property
    def exhausted(self) -> bool:
        """The last proposals brought nothing new."""
        return self._fruitless >= _FRUITLESS

    def front(self) -> list[TrialRecord]:
        """Non-dominated evaluated trials, cheapest first."""
        return _by_cost(self._front)

    def _learn(self, record: TrialRecord) -> None:
        if record.config is not None and record.state != "duplicate":
            self._known[record.config.config_id] = record

    def _count(self, record: TrialRecord) -> None:
        """Take a finished trial into account; the front is kept up to date as trials come."""
        self._learn(record)
        fruitful = record.state in ("complete", "failed")
        self._evaluated += fruitful
        self._fruitless = 0 if fruitful else self._fruitless + 1
        if record.measured and self._undominated(record):
            self._front = front_of([*self._front, record], self.objectives)

    def _warm_starts(self) -> list[Params | None]:
        """Proposals to begin with; None stands for the uncompressed model."""
        starts: list[Params | None] = [*warm_starts(self.problem.space, self.problem.facts)]
        uncompressed = self.uncompressed()
        return [None, *starts] if uncompressed.violation <= 0.0 else starts

    def uncompressed(self) -> Repaired:
        """The model as it is, with its violation of the budget if any."""
        config = CompressionConfig()
        costs = self.problem.costs.cost(config)
        predicted = dict(self.problem.predict(config)) if self.problem.predict else {}
        values: dict[str, float] = {**dataclasses.asdict(costs), **predicted}
        worst = max((values[b.metric] / b.limit - 1.0 for b in self.problem.budgets), default=0.0)
        return Repaired(config, costs=costs, predicted=predicted, violation=worst)

    # --- ask

    def ask(self) -> Ask | None:
        """The next configuration to evaluate; None when the space seems exhausted.

        Infeasible shapes and configurations that are known already are recorded on the way and cost
        no evaluation.
        """
        while not self.exhausted:
            number = self.proposals.next_number
            record = self._proposal(number)
            constraints = {"budget": record.violation} if record.state != "failed" else {}
            self.proposals.start(record, constraints=constraints)
            if record.state == "running":
                self._flights[number] = _Flight(record)
                self._learn(record)
                assert record.config is not None
                return Ask(number, record.config, 0, self.plan.few)
            self._finish(record)
        return None

    def _proposal(self, number: int) -> TrialRecord:
        fixed: Mapping[str, Primitive] | None = None
        origin = "sampler"
        if number < len(self._starts):
            origin, fixed = "warm-start", self._starts[number]
            if fixed is None:
                return self._record(number, {}, self.uncompressed(), origin)
        record = None
        for attempt in range(_ATTEMPTS):
            record = self._attempt(number, attempt, fixed if attempt == 0 else None, origin)
            if record.state != "duplicate":
                break
            origin = "sampler"
        assert record is not None
        return record

    def _attempt(
        self, number: int, attempt: int, fixed: Mapping[str, Primitive] | None, origin: str
    ) -> TrialRecord:
        params = self.proposals.propose(number, attempt=attempt, fixed=fixed)
        try:
            shape = self.problem.space.decode(params, self.problem.facts)
            repaired = repair(shape, float(params["budget_fraction"]), self.problem)
        except AutotokError as error:
            return TrialRecord(
                number, "failed", None, params=params, origin=origin, reason=str(error)
            )
        return self._record(number, params, repaired, origin)

    def _record(self, number: int, params: Params, repaired: Repaired, origin: str) -> TrialRecord:
        state, reason = "running", repaired.reason
        if repaired.config is None:
            state = "infeasible"
        known = None if repaired.config is None else self._known.get(repaired.config.config_id)
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
            seed=self.settings.seed,
            reason=reason,
            duplicate_of=None if known is None else known.number,
        )

    # --- advance and tell

    def advance(self, number: int, tally: TallyLike, seconds: float) -> Ask | TrialRecord:
        """Take in a tally: more images for a trial that nothing dominates, else its record."""
        flight = self._flights[number]
        flight.tally = tally if flight.tally is None else flight.tally + tally
        flight.seconds += seconds
        score = to_score(flight.tally)
        if not math.isfinite(score.value):
            return self.fail(number, f"diverged: {score.metric} is {score.value}", 0.0)
        first = flight.stop == 0
        flight.stop = self.plan.few if first else self.plan.more
        if (
            first
            and self.plan.more > self.plan.few
            and self._undominated(_scored(flight.record, score))
        ):
            assert flight.record.config is not None
            return Ask(number, flight.record.config, self.plan.few, self.plan.more)
        return self._complete(number, flight, score)

    def _complete(self, number: int, flight: _Flight, score: Score) -> TrialRecord:
        del self._flights[number]
        assert flight.tally is not None
        self.tallies[number] = flight.tally
        record = dataclasses.replace(
            flight.record,
            state="complete",
            score=score,
            fidelity="more" if flight.stop > self.plan.few else "few",
            seconds=flight.seconds,
            tally=_plain(flight.tally),
        )
        return self._finish(record)

    def fail(self, number: int, reason: str, seconds: float) -> TrialRecord:
        """Record a trial that raised, ran out of memory or diverged; the search goes on."""
        flight = self._flights.pop(number)
        spent = flight.seconds + seconds
        return self._finish(
            dataclasses.replace(flight.record, state="failed", reason=reason, seconds=spent)
        )

    def _finish(self, record: TrialRecord) -> TrialRecord:
        if record.state == "duplicate":
            record = self._copy_known(record)
        self.proposals.tell(record)
        self._count(record)
        _LOG.info("%s", describe(record))
        return record

    def _copy_known(self, record: TrialRecord) -> TrialRecord:
        """A duplicate is told with the values known; without any it teaches nothing."""
        assert record.config is not None
        known = self._known[record.config.config_id]
        if known.score is None:
            return dataclasses.replace(
                record, state="infeasible", violation=max(0.01, record.violation)
            )
        return dataclasses.replace(record, score=known.score, fidelity=known.fidelity)

    def _undominated(self, record: TrialRecord) -> bool:
        points = losses([r.values for r in [*self._front, record]], self.objectives)
        others, own = points[:-1], points[-1]
        worse = np.all(others <= own, axis=1) & np.any(others < own, axis=1)
        return not bool(worse.any())


def _scored(record: TrialRecord, score: Score) -> TrialRecord:
    return dataclasses.replace(record, state="complete", score=score)


def front_of(records: list[TrialRecord], objectives: tuple[Objective, ...]) -> list[TrialRecord]:
    """The non-dominated ones of those with a quality, cheapest first."""
    measured = [r for r in records if r.measured]
    if not measured:
        return []
    mask = front_mask(losses([r.values for r in measured], objectives))
    front = [r for r, keep in zip(measured, mask, strict=True) if keep]
    return _by_cost(front)


def _by_cost(records: list[TrialRecord]) -> list[TrialRecord]:
    return sorted(records, key=lambda r: (r.costs.macs if r.costs else 0, r.number))


def describe(record: TrialRecord) -> str:
    """One log line per trial."""
    method = record.config.method if record.config is not None else record.params.get("method", "?")
    words = [f"trial {record.number}: {method} {record.state}"]
    if record.costs is not None:
        words.append(f"{record.costs.macs / 1e9:.3f} G")
    if record.score is not None:
        words.append(
            f"{record.score.metric} {record.score.value:.2f} on {record.score.num_images} images"
        )
    if record.reason:
        words.append(record.reason)
    return ", ".join(words)


def _plain(tally: Any) -> dict[str, Any] | None:
    if dataclasses.is_dataclass(tally) and not isinstance(tally, type):
        return dataclasses.asdict(tally)
    return None
