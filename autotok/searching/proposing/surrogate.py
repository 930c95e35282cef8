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
import itertools
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from autotok.metrics import METRICS
from autotok.searching.records.objective import Objective, losses
from autotok.searching.records.pareto import front_mask
from autotok.searching.records.record import TrialRecord
from autotok.searching.space.parameters import Params
from autotok.searching.space.problem import Problem

from .candidates import Priced, nearby, priced_at, random_params
from .expected_gain import Belief, expected_gain
from .features import NOTHING, WHOLE, Features, Rows
from .gaussian_process import USUAL, Covariances, Hyper, Inputs, Posterior, best_hyper, fit
from .predicted_limits import PredictedLimits
from .tried import Named, TriedProposals

_SHAPES, _FRACTIONS = 400, 4
"""Of the candidates made once, before the first trial."""
_NEAR_SHAPES = 8
"""New shapes around the front for each proposal."""
_MOST_SEEN = 150
"""Observations that the process looks at, as its time grows with their square."""
_MOST_FAILED = 50
"""Of those that failed, the latest."""
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
_TIER = 250
"""Trials after which one ranking serves one trial more: of hundreds of observations the next one
changes little, and a ranking is most of what a proposal costs."""
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

    def before(self, number: int) -> Known:
        """What was known, or on its way, when trial `number` came."""
        records, running = (
            [r for r in part if r.number < number] for part in (self.records, self.running)
        )
        return dataclasses.replace(self, records=records, running=running)


class Surrogate:
    """Chooses proposals for one problem; the same records give the same proposal."""

    def __init__(
        self, problem: Problem, objectives: Sequence[Objective], starts: Sequence[Params], seed: int
    ) -> None:
        """`starts` are proposals whose shapes are worth considering."""
        self._problem, self._objectives, self._seed = problem, tuple(objectives), seed
        self._starts = list(starts)
        self._whole = float(problem.costs.cost(problem.whole).macs)
        self._hypers: dict[Hashable, Hyper] = {}
        self._ranked: tuple[int, list[Named]] = -1, []
        self._open: tuple[int, list[Named]] = -1, []
        """Of one trial, what is left of those."""
        self._tried = TriedProposals()
        self._covariances: dict[str, Covariances] = {}
        self._losses: dict[int, tuple[TrialRecord, Floats]] = {}
        """By identity: a record never changes, and kept here its id is nobody else's."""

    def propose(self, number: int, attempt: int, known: Callable[[], Known]) -> Params | None:
        """Parameters of trial `number`, the next best at each further attempt; None where all that
        could be thought of was tried. What is `known` is asked at the first one."""
        if self._open[0] != number:
            now, first = known(), _ranked_at(number)
            if self._ranked[0] != first:
                self._ranked = first, self._rank(first, now.before(first))
            self._open = number, self._untried(self._ranked[1], now)
        left = self._open[1]
        return dict(left[attempt].params) if attempt < len(left) else None

    def _rank(self, number: int, known: Known) -> list[Named]:
        """The most promising proposals that are not known yet, best first."""
        seen = self._visible([r for r in (*known.earlier, *known.records) if _learnt_from(r)])
        fresh = self._around(number, seen)
        failed = [r for r in known.records if _failed(r)][-_MOST_FAILED:]
        rng = np.random.default_rng([self._seed, number, 13])
        gains = self._gains(self._features.of(fresh), seen, failed, known, rng)
        order = np.argsort(-gains, kind="stable").tolist()
        opening = self._opening([*seen, *failed, *known.running])
        candidates = [*self._named, *(Named(c.params) for c in fresh)]
        ranked = (candidates[i] for i in order if not opening or i in opening)
        return self._untried(ranked, known, number, _RANKED * _block(number))

    def _untried(
        self,
        ranked: Iterable[Named],
        known: Known,
        number: float = math.inf,
        most: int | None = None,
    ) -> list[Named]:
        """The first that no trial before `number` tried, nor found to be of a shape that is outside
        at its cheapest."""
        self._tried.take_in(known.records)
        open_now = {Named(r.params).key for r in known.running}
        new = (n for n in ranked if n.key not in open_now and self._tried.is_new(n, number))
        return list(itertools.islice(new, most))

    # --- what could be tried

    @cached_property
    def _published(self) -> list[Priced]:
        rng = np.random.default_rng([self._seed, 5])
        return [c for params in self._starts for c in self._spread(params, rng)]

    @cached_property
    def _shapes(self) -> list[Params]:
        """Every other one of the whole structure: that of fewer tokens is most of what there is."""
        rng, structure = np.random.default_rng([self._seed, 7]), self._problem.space.structure
        whole = {} if structure is None else structure.params(structure.default)
        return [random_params(self._problem, rng, whole if i % 2 else {}) for i in range(_SHAPES)]

    @cached_property
    def _pool(self) -> list[Priced]:
        rng = np.random.default_rng([self._seed, 9])
        return [*self._published, *(c for p in self._shapes for c in self._spread(p, rng))]

    @cached_property
    def _named(self) -> list[Named]:
        return [Named(c.params) for c in self._pool]

    def _opening(self, seen: Sequence[TrialRecord]) -> set[int]:
        """Of the pool, what one of the first proposals may be; none where all may."""
        if len(seen) >= _PUBLISHED:
            return set()
        methods = {r.config.method for r in seen if r.config}
        return {i for i, c in enumerate(self._published) if c.method not in methods}

    @cached_property
    def _features(self) -> Features:
        return Features(self._problem, [*self._starts, *self._shapes], self._whole)

    @cached_property
    def _limits(self) -> PredictedLimits:
        return PredictedLimits(self._problem, self._features, self._starts, self._whole)

    @cached_property
    def _pool_rows(self) -> Rows:
        return self._features.of(self._pool)

    def _spread(self, params: Params, rng: np.random.Generator) -> list[Priced]:
        between = (np.arange(_FRACTIONS) + rng.random()) / _FRACTIONS
        fractions = [*between.tolist(), 1.0]
        most = self._limits.most(params)
        return priced_at(params, fractions, self._problem, self._whole, most=most)

    def _around(self, number: int, seen: Sequence[TrialRecord]) -> list[Priced]:
        """Candidates near the front as it stands."""
        rng = np.random.default_rng([self._seed, number, 11])
        points = self._points(seen)
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
        points = self._points(seen)
        front = np.flatnonzero(front_mask(points))[-_MOST_SEEN // 2 :].tolist()
        rest = sorted(set(range(len(seen))) - set(front))
        keep = sorted([*front, *rest[len(front) - _MOST_SEEN :]])
        return [seen[i] for i in keep]

    def _points(self, seen: Sequence[TrialRecord]) -> Floats:
        """(n, objectives) losses, of each record worked out once."""
        rows = self._losses
        for record in seen:
            if id(record) not in rows:
                rows[id(record)] = record, losses([record.values], self._objectives)[0]
        return np.array([rows[id(r)][1] for r in seen]).reshape(-1, len(self._objectives))

    def _gains(
        self,
        fresh: Rows,
        seen: Sequence[TrialRecord],
        failed: Sequence[TrialRecord],
        known: Known,
        rng: np.random.Generator,
    ) -> Floats:
        """(m,) how much each candidate, of the pool and fresh, is expected to move the front."""
        macs = np.concatenate([self._pool_rows.macs, fresh.macs])
        tried = self._features.of_records([*seen, *known.running])
        beliefs = []
        for objective in self._objectives:
            judged = METRICS[self._problem.metric].column == objective.name
            if objective.name == "macs_g" or not (seen or judged):  # unseen, it goes with the cost
                worst, still = float(tried.macs.max(initial=1.0)), np.zeros(len(macs))
                exact = objective.name == "macs_g"
                beliefs.append(Belief(macs, still, tried.macs, worst, exact=exact))
                continue
            told, worst = self._told(objective, seen, known.ceiling)
            hyper = self._hyper(objective, known)
            if failed and judged:  # what cannot be judged is of no use to anybody
                like, bad = self._features.of_records(failed).inputs, float(told.values.max())
                told = told.with_more(_names(failed), like, np.full(len(failed), bad))
            posterior = fit(told.inputs, told.values, told.variances, hyper)
            if known.running:  # they will find what is believed of them now
                theirs = self._features.of_records(known.running).inputs
                told = told.with_more(_names(known.running), theirs, posterior.at(theirs)[0])
                posterior = fit(told.inputs, told.values, told.variances, hyper)
            means, deviations = self._everywhere(objective.name, posterior, told, fresh)
            past = posterior.at(tried.inputs)[0]
            beliefs.append(Belief(means, deviations, past, worst, exact=False))
        return expected_gain(beliefs, rng)

    def _everywhere(
        self, name: str, posterior: Posterior, told: _Told, fresh: Rows
    ) -> tuple[Floats, Floats]:
        """Means and deviations of the pool and of fresh candidates."""
        pool = self._pool_rows.inputs
        known = self._covariances.setdefault(name, Covariances(pool))
        both = (
            posterior.at(pool, known.of(told.inputs, told.names, posterior.hyper)),
            posterior.at(fresh.inputs),
        )
        means, deviations = (np.concatenate(parts) for parts in zip(*both, strict=True))
        return means, deviations

    def _told(
        self, objective: Objective, seen: Sequence[TrialRecord], ceiling: float | None
    ) -> tuple[_Told, float]:
        """What was seen of an objective, and the loss beyond which nothing counts."""
        values = self._points(seen)[:, self._objectives.index(objective)]
        variances = np.array([_variance(r, objective) for r in seen])
        told = _Told(_names(seen), self._features.of_records(seen).inputs, values, variances)
        worst = float(values.max(initial=-math.inf))
        if METRICS[self._problem.metric].column == objective.name:
            whole = self._whole_loss(objective, ceiling)
            worst = self._blind_loss(values, whole)
            ends = self._features.of([WHOLE, NOTHING]).inputs
            told = told.with_more(["whole", "nothing"], ends, np.array([whole, worst]))
        capped = np.minimum(told.values, _worst_told_apart(told.values))
        return dataclasses.replace(told, values=capped), worst

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

    def _hyper(self, objective: Objective, known: Known) -> Hyper:
        """Hyper-parameters, found anew from the first ones whenever a fifth more was seen."""
        learnt = filter(_learnt_from, itertools.chain(known.earlier, known.records))
        seen = list(itertools.islice(learnt, _MOST_SEEN))
        if len(seen) < _FEW:
            return USUAL
        due = int(_AGAIN ** int(math.log(len(seen), _AGAIN)))
        key = objective.name, known.ceiling, tuple(_names(seen[:due]))
        if key not in self._hypers:
            told, _ = self._told(objective, seen[:due], known.ceiling)
            first = np.arange(due)
            self._hypers[key] = best_hyper(
                told.inputs.take(first), told.values[first], told.variances[first]
            )
        return self._hypers[key]


@dataclass(frozen=True)
class _Told:
    """(n,) losses of configurations, with the variances of their errors."""

    names: Sequence[Hashable]
    inputs: Inputs
    values: Floats
    variances: Floats

    def with_more(self, names: Sequence[Hashable], inputs: Inputs, values: Floats) -> _Told:
        """And some that are certain."""
        return _Told(
            [*self.names, *names],
            Inputs.joined([self.inputs, inputs]),
            np.concatenate([self.values, values]),
            np.concatenate([self.variances, np.zeros(len(values))]),
        )


def _block(number: int) -> int:
    """Trials that one ranking serves, at trial `number`."""
    return 1 + number // _TIER


def _ranked_at(number: int) -> int:
    """The trial whose ranking serves trial `number`."""
    return number - number % _TIER % _block(number)


def _names(records: Sequence[TrialRecord]) -> list[Hashable]:
    """By which they are told apart."""
    return [(r.number, r.config.config_id) for r in records if r.config]


def _learnt_from(record: TrialRecord) -> bool:
    return record.measured and record.config is not None and record.base is None


def _failed(record: TrialRecord) -> bool:
    """Whether a schedule was tried and could not be judged; the uncompressed model tells nothing
    about others."""
    config = record.config
    tried = record.state == "failed" and record.base is None and record.costs is not None
    return tried and config is not None and bool(config.reductions)


def _judged(record: TrialRecord, objective: Objective) -> bool:
    return record.score is not None and METRICS[record.score.metric].column == objective.name


def _variance(record: TrialRecord, objective: Objective) -> float:
    """Of the error of an observation, from its 95 % interval; all see the same images first, so
    half of it is common to all of them."""
    if record.score is None or not _judged(record, objective):
        return 0.0
    return 0.5 * ((record.score.high - record.score.low) / (2 * 1.96)) ** 2


def _worst_told_apart(values: Floats) -> float:
    """How bad a loss has to be that it no longer matters how bad: as far above the median as twice
    the best is below it."""
    middle = float(np.median(values))
    return middle + 2.0 * max(middle - float(values.min()), 1e-12)
