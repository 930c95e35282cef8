"""The last word: the front, a random control and the uncompressed model on the full split.

Only images that a configuration has not seen are run. Every result is kept with the study as soon
as it is there, so an interrupted last word goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from autotok.methods.registry import list_methods

from .engines.base import Engine, Job, Outcome
from .loop import Search, front_of
from .objective import losses
from .pareto import thin
from .problem import TallyLike, to_score
from .record import TrialRecord
from .repair import Repaired, match_cost
from .shape import Shape

__all__ = ["Final", "finalists", "last_word"]

_LOG = logging.getLogger(__name__)
CONTROL = "random"


@dataclass(frozen=True)
class Final:
    """What the last word found."""

    front: tuple[TrialRecord, ...]
    """Non-dominated at the last fidelity and inside every budget, cheapest first."""
    best: TrialRecord | None
    random_control: TrialRecord | None
    """The best of random pruning at the cost of the best."""
    controls: tuple[TrialRecord, ...]
    reference: TrialRecord | None
    """The uncompressed model."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        singles = {name: getattr(self, name) for name in ("best", "random_control", "reference")}
        return {
            **{name: None if r is None else r.to_dict() for name, r in singles.items()},
            "front": [r.to_dict() for r in self.front],
            "controls": [r.to_dict() for r in self.controls],
        }


def finalists(search: Search) -> list[TrialRecord]:
    """The front, thinned; the extremes, the best quality among them, stay."""
    front = search.front()
    if not front:
        return []
    points = losses([r.values for r in front], search.objectives)
    return [front[i] for i in thin(points, search.settings.front_size)]


def last_word(
    search: Search, engine: Engine, report: Callable[[TrialRecord, int, int], None]
) -> Final:
    """Evaluate finalists, control and reference on `plan.final` images.

    `report(record, done, total)` is called after each.
    """
    word = _LastWord(search, engine, report)
    chosen = [word.final(f"final:{r.number}", r) for r in finalists(search)]
    front = front_of([word.verified(r) for r in chosen], search.objectives)
    best = _best(search, front)
    controls = [] if best is None else word.controls(best)
    reference = word.reference()
    measured = [c for c in controls if c.measured]
    return Final(tuple(front), best, _best(search, measured), tuple(controls), reference)


def _best(search: Search, records: Sequence[TrialRecord]) -> TrialRecord | None:
    """The first objective decides, then the next."""
    if not records:
        return None
    points = losses([r.values for r in records], search.objectives)
    return min(zip(points.tolist(), records, strict=True), key=lambda pair: pair[0])[1]


class _LastWord:
    def __init__(
        self, search: Search, engine: Engine, report: Callable[[TrialRecord, int, int], None]
    ) -> None:
        self._search, self._engine, self._report = search, engine, report
        self._total = len(finalists(search)) + search.settings.control_shapes + 1
        self._done = 0

    def final(self, key: str, record: TrialRecord) -> TrialRecord:
        """The record at the last fidelity; from the study's notes if it is there."""
        notes, noted = self._search.proposals, self._search.proposals.noted(key)
        if noted is None:
            found = self._evaluate(record)
            notes.note(key, found.to_dict())
        else:
            found = TrialRecord.from_dict(noted)
        self._done += 1
        self._report(found, self._done, self._total)
        return found

    def _evaluate(self, record: TrialRecord) -> TrialRecord:
        stop, tally = self._search.plan.final, self._known_tally(record)
        start = 0 if tally is None or record.score is None else record.score.num_images
        assert record.config is not None
        outcome: Outcome | None = None
        if start < stop:
            self._engine.submit(Job(record.number, record.config, start, stop))
            outcome = self._engine.collect()
            if outcome.tally is None:
                _LOG.warning("last word on trial %d failed: %s", record.number, outcome.error)
                return dataclasses.replace(record, state="failed", reason=outcome.error)
            tally = outcome.tally if tally is None else tally + outcome.tally
        assert tally is not None
        return dataclasses.replace(
            record,
            state="complete",
            score=to_score(tally),
            fidelity="final",
            tally=None,
            seconds=record.seconds + (outcome.seconds if outcome else 0.0),
        )

    def _known_tally(self, record: TrialRecord) -> TallyLike | None:
        if record.number in self._search.tallies:
            return self._search.tallies[record.number]
        load = self._search.problem.load_tally
        return load(record.tally) if load is not None and record.tally is not None else None

    def verified(self, record: TrialRecord) -> TrialRecord:
        """The record with the independent counter's figure; beyond the budget it is infeasible."""
        problem = self._search.problem
        assert record.config is not None
        assert record.costs is not None
        if problem.count is None:
            return dataclasses.replace(record, within_budget=record.violation <= 0.0)
        counted = int(problem.count(record.config))
        limits = [b.limit for b in problem.budgets if b.metric == "macs"]
        holds = record.violation <= 0.0 and all(counted <= limit for limit in limits)
        if counted != record.costs.macs:
            _LOG.warning(
                "trial %d: the independent counter finds %d MACs, the formula %d",
                *(record.number, counted, record.costs.macs),
            )
        return dataclasses.replace(
            record, macs_counted=counted, within_budget=holds, feasible=holds
        )

    def controls(self, best: TrialRecord) -> list[TrialRecord]:
        """Random pruning at the cost of the best, in several shapes, the best's own among them."""
        found: list[TrialRecord] = []
        seen: set[str] = set()
        for shape in _control_shapes(self._search, best):
            if len(found) == self._search.settings.control_shapes or best.costs is None:
                break
            repaired = match_cost(shape, best.costs.macs, self._search.problem)
            if repaired is None or repaired.config is None or repaired.config.config_id in seen:
                continue
            seen.add(repaired.config.config_id)
            record = self.verified(_as_record(-2 - len(found), repaired, "control"))
            found.append(self.final(f"control:{repaired.config.config_id}", record))
        return found

    def reference(self) -> TrialRecord:
        """The uncompressed model on the same images; inside the budget or not."""
        return self.final("reference", _as_record(-1, self._search.uncompressed(), "reference"))


def _as_record(number: int, repaired: Repaired, origin: str) -> TrialRecord:
    return TrialRecord(
        number=number,
        state="running",
        config=repaired.config,
        layers=repaired.layers,
        counts=repaired.counts,
        costs=repaired.costs,
        predicted=repaired.predicted,
        feasible=repaired.violation <= 0.0,
        violation=repaired.violation,
        origin=origin,
    )


def _control_shapes(search: Search, best: TrialRecord) -> list[Shape]:
    """Shapes for random pruning: the best's own, three stages, one early, every layer."""
    facts = search.problem.facts
    if CONTROL not in list_methods() or not best.layers:
        return []
    depth = facts.num_blocks
    gone = [1.0 - count / facts.num_patches for count in best.counts]
    own = Shape(CONTROL, best.layers, tuple(g / gone[-1] for g in gone), "linear")
    stages = tuple(dict.fromkeys(depth * i // 4 for i in (1, 2, 3)))
    steps = tuple((i + 1) / len(stages) for i in range(len(stages)))
    every = Shape(
        CONTROL, tuple(range(depth)), tuple((i + 1) / depth for i in range(depth)), "linear"
    )
    shapes = [
        own,
        Shape(CONTROL, stages, steps),
        every,
        Shape(CONTROL, (max(0, depth // 6),), (1.0,)),
    ]
    options = dict(sorted(own.reducer.resolve_options({}).items()))
    return [dataclasses.replace(shape, options=options) for shape in shapes]
