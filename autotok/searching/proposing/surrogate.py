"""`Surrogate`: the proposal that promises most, by what is known for nothing and all that was seen.

Cost is exact before anything runs, so only quality has to be learnt: a Gaussian process over the
tokens left at each depth, the method and its options, with the error of each observation. What is
chosen has the largest expected gain in hypervolume among thousands of candidates (Emmerich et al.,
"Single- and multiobjective evolutionary optimization assisted by Gaussian random field metamodels",
IEEE TEC 2006), in closed form where the other objective is the exact cost, else by scalarisations
drawn at random (Knowles, "ParEGO", IEEE TEC 2006).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from autotok.config import CompressionConfig, Primitive
from autotok.metrics import METRICS
from autotok.searching.records.objective import Objective, losses
from autotok.searching.records.pareto import front_mask
from autotok.searching.records.record import TrialRecord
from autotok.searching.space.problem import Problem
from autotok.searching.space.search_space import Params

from .candidates import Priced, nearby, priced_at, random_params
from .expected_gain import Belief, expected_gain
from .features import NOTHING, WHOLE, Features, Rows
from .gaussian_process import USUAL, Hyper, Inputs, best_hyper, fit

_SHAPES, _FRACTIONS = 400, 4
"""Of the candidates made once, before the first trial."""
_NEAR_SHAPES = 8
"""New shapes around the front for each proposal."""
_MOST_SEEN = 150
"""Observations that the process looks at, as its time grows with their square."""
_PUBLISHED = 5
"""The first proposals, each the published schedule of another method, at the cost where it promises
most: before anything was seen, a paper's schedule is a likely guess, and one method twice says
less than two."""
_AGAIN = 1.25
"""Growth of what was seen after which hyper-parameters are found anew."""
_FEW = 5
"""Observations that say nothing about hyper-parameters yet."""
_RANKED = 12
"""More than a trial builder tries where proposals turn out to be known."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Known:
    """What a proposal rests on."""

    records: Sequence[TrialRecord]
    """Of this search, in the order of their numbers."""
    running: Sequence[TrialRecord] = ()
    """Trials that others work on; they are taken to find what is expected of them."""
    earlier: Sequence[TrialRecord] = ()
    """Of another run of the same model and images, which may be tried again."""
    ceiling: float | None = None
    """Quality of the uncompressed model, where it is known."""


class Surrogate:
    """Chooses proposals for one problem; the same records give the same proposal."""

    def __init__(
        self, problem: Problem, objectives: Sequence[Objective], starts: Sequence[Params], seed: int
    ) -> None:
        """`starts` are proposals whose shapes are worth considering."""
        self._problem, self._objectives, self._seed = problem, tuple(objectives), seed
        self._starts = list(starts)
        self._whole = float(problem.costs.cost(CompressionConfig()).macs)
        self._hypers: dict[tuple[str, int], Hyper] = {}
        self._ranked: tuple[int, list[Params]] = -1, []

    def propose(self, number: int, attempt: int, known: Known) -> Params | None:
        """Parameters of trial `number`, the next best at each further attempt; None where all that
        could be thought of was tried."""
        if self._ranked[0] != number:
            self._ranked = number, self._rank(number, known)
        ranked = self._ranked[1]
        return ranked[attempt] if attempt < len(ranked) else None

    def _rank(self, number: int, known: Known) -> list[Params]:
        """The most promising proposals, best first."""
        seen = self._visible([r for r in (*known.earlier, *known.records) if _learnt_from(r)])
        fresh = self._around(number, seen)
        rows = self._pool_rows + self._features.of(fresh)
        rng = np.random.default_rng([self._seed, number, 13])
        order = np.argsort(-self._gains(rows, seen, known, rng), kind="stable")
        tried = {_key(r.params) for r in (*known.records, *known.running)}
        candidates, found = [*self._pool, *fresh], []
        opening = self._opening([*seen, *known.running])
        for index in order.tolist():
            params = candidates[index].params
            if opening and index not in opening:
                continue
            if _key(params) not in tried:
                found.append(params)
            if len(found) == _RANKED:
                break
        return found

    # --- what could be tried

    @cached_property
    def _published(self) -> list[Priced]:
        rng = np.random.default_rng([self._seed, 5])
        return [c for params in self._starts for c in self._spread(params, rng)]

    @cached_property
    def _pool(self) -> list[Priced]:
        rng = np.random.default_rng([self._seed, 7])
        shapes = [random_params(self._problem, rng) for _ in range(_SHAPES)]
        return [*self._published, *(c for p in shapes for c in self._spread(p, rng))]

    def _opening(self, seen: Sequence[TrialRecord]) -> set[int]:
        """Of the pool, what one of the first proposals may be; none where all may."""
        if len(seen) >= _PUBLISHED:
            return set()
        methods = {r.config.method for r in seen if r.config}
        return {i for i, c in enumerate(self._published) if c.method not in methods}

    @cached_property
    def _features(self) -> Features:
        return Features(self._problem, self._pool, self._whole)

    @cached_property
    def _pool_rows(self) -> Rows:
        return self._features.of(self._pool)

    def _spread(self, params: Params, rng: np.random.Generator) -> list[Priced]:
        between = (np.arange(_FRACTIONS) + rng.random()) / _FRACTIONS
        return priced_at(params, [*between.tolist(), 1.0], self._problem, self._whole)

    def _around(self, number: int, seen: Sequence[TrialRecord]) -> list[Priced]:
        """Candidates near the front as it stands."""
        rng = np.random.default_rng([self._seed, number, 11])
        points = losses([r.values for r in seen], self._objectives)
        front = [r for r, keep in zip(seen, front_mask(points), strict=True) if keep]
        bases = [r.params for r in front if r.params] or [r.params for r in seen if r.params]
        if not bases:
            return []
        chosen = [bases[int(i)] for i in rng.integers(len(bases), size=_NEAR_SHAPES)]
        shapes = [nearby(params, self._problem, rng) for params in chosen]
        return [c for params in shapes for c in self._spread(params, rng)]

    # --- what was seen

    def _visible(self, seen: list[TrialRecord]) -> list[TrialRecord]:
        """At most `_MOST_SEEN`: the front, and the latest."""
        if len(seen) <= _MOST_SEEN:
            return seen
        points = losses([r.values for r in seen], self._objectives)
        front = np.flatnonzero(front_mask(points))[-_MOST_SEEN // 2 :].tolist()
        rest = sorted(set(range(len(seen))) - set(front))
        keep = sorted([*front, *rest[len(front) - _MOST_SEEN :]])
        return [seen[i] for i in keep]

    def _gains(
        self, rows: Rows, seen: Sequence[TrialRecord], known: Known, rng: np.random.Generator
    ) -> Floats:
        """(m,) how much each candidate is expected to move the front."""
        history, running = (self._features.of_records(r) for r in (seen, known.running))
        beliefs = []
        for objective in self._objectives:
            judged = METRICS[self._problem.metric].column == objective.name
            if objective.name == "macs_g" or not (seen or judged):  # unseen, it goes with the cost
                past = (history + running).macs
                worst, still = float(past.max(initial=1.0)), np.zeros(len(rows.macs))
                exact = objective.name == "macs_g"
                beliefs.append(Belief(rows.macs, still, past, worst, exact=exact))
                continue
            values = losses([r.values for r in seen], [objective])[:, 0]
            variances = np.array([_variance(r, objective) for r in seen])
            told = _Told(history.inputs, values, variances)
            worst = float(values.max(initial=-math.inf))
            if judged:
                whole = self._whole_loss(objective, known.ceiling)
                worst = self._blind_loss(values, whole)
                ends = self._features.of([WHOLE, NOTHING]).inputs
                told = told.with_more(ends, np.array([whole, worst]))
            beliefs.append(self._belief(objective.name, told, rows, history, running, worst))
        return expected_gain(beliefs, rng)

    def _belief(
        self, name: str, told: _Told, rows: Rows, history: Rows, running: Rows, worst: float
    ) -> Belief:
        """What is believed of one objective, for the candidates and for what was tried."""
        told = dataclasses.replace(
            told, values=np.minimum(told.values, _worst_told_apart(told.values))
        )
        hyper = self._hyper(name, len(history.macs), told)
        posterior = fit(told.inputs, told.values, told.variances, hyper)
        if len(running.macs):  # they will find what is believed of them now
            told = told.with_more(running.inputs, posterior.at(running.inputs)[0])
            posterior = fit(told.inputs, told.values, told.variances, hyper)
        means, deviations = posterior.at(rows.inputs)
        past = posterior.at((history + running).inputs)[0]
        return Belief(means, deviations, past, worst, exact=False)

    def _whole_loss(self, objective: Objective, ceiling: float | None) -> float:
        """Loss of the uncompressed model; that of a perfect one where it is not known yet."""
        if objective.maximise:
            return -(100.0 if ceiling is None else ceiling)
        return ceiling or 0.0

    def _blind_loss(self, values: Floats, whole: float) -> float:
        """Loss of a model that sees nothing: that of guessing, else the worst seen so far."""
        metric = METRICS[self._problem.metric]
        guessing = metric.guessing(self._problem.facts.num_classes)
        if guessing is not None:
            return -guessing if metric.higher_is_better else guessing
        return float(values.max()) if len(values) else whole + 1.0  # any scale is as good

    def _hyper(self, name: str, count: int, told: _Told) -> Hyper:
        """Hyper-parameters, found anew whenever a fifth more was seen."""
        if count < _FEW:
            return USUAL
        due = int(_AGAIN ** int(math.log(count, _AGAIN)))
        if (name, due) not in self._hypers:
            first = np.arange(min(due, _MOST_SEEN, len(told.values)))
            found = best_hyper(told.inputs.take(first), told.values[first], told.variances[first])
            self._hypers[name, due] = found
        return self._hypers[name, due]


@dataclass(frozen=True)
class _Told:
    """(n,) losses of configurations, with the variances of their errors."""

    inputs: Inputs
    values: Floats
    variances: Floats

    def with_more(self, inputs: Inputs, values: Floats) -> _Told:
        """And some that are certain."""
        return _Told(
            self.inputs + inputs,
            np.concatenate([self.values, values]),
            np.concatenate([self.variances, np.zeros(len(values))]),
        )


def _learnt_from(record: TrialRecord) -> bool:
    return record.measured and record.config is not None and record.base is None


def _key(params: Mapping[str, Primitive]) -> tuple[tuple[str, Primitive], ...]:
    return tuple(sorted((k, v) for k, v in params.items() if k != "mode"))


def _judged(record: TrialRecord, objective: Objective) -> bool:
    return record.score is not None and METRICS[record.score.metric].column == objective.name


def _variance(record: TrialRecord, objective: Objective) -> float:
    """Of the error of an observation, from its 95 % interval; all see the same images first, so
    half of it is common to all of them."""
    if record.score is None or not _judged(record, objective):
        return 0.0
    return 0.5 * ((record.score.high - record.score.low) / (2 * 1.96)) ** 2


def _worst_told_apart(values: Floats) -> float:
    """How bad a loss has to be that it no longer matters how bad: as far above the median as four
    times the best is below it."""
    middle = float(np.median(values))
    return middle + 4.0 * max(middle - float(values.min()), 1e-12)
