"""`Surrogate`: the proposal that promises most, by what is known for nothing and all that was seen.

Cost is exact before anything runs, so only quality has to be learnt: a Gaussian process over the
tokens left at each depth, the method and its options, with the error of each observation. What is
chosen has the largest expected gain in hypervolume among thousands of candidates (Emmerich et al.,
"Single- and multiobjective evolutionary optimization assisted by Gaussian random field metamodels",
IEEE TEC 2006), in closed form where the other objective is the exact cost, else by scalarisations
drawn at random (Knowles, "ParEGO", IEEE TEC 2006).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from autotok.config import CompressionConfig, Primitive
from autotok.methods.base import Kind
from autotok.methods.registry import get_method
from autotok.metrics import METRICS
from autotok.searching.records.objective import Objective, losses
from autotok.searching.records.pareto import front_mask
from autotok.searching.records.record import TrialRecord
from autotok.searching.space.problem import Problem
from autotok.searching.space.search_space import Params

from .candidates import BINS, Priced, nearby, priced_at, random_params, steepest, tokens_by_depth
from .gaussian_process import USUAL, Hyper, Inputs, best_hyper, fit

__all__ = ["Surrogate"]

_SHAPES, _FRACTIONS = 400, 4
"""Of the candidates made once, before the first trial: half a second."""
_NEAR_SHAPES = 8
"""New shapes around the front for each proposal: 10 ms."""
_MOST_SEEN = 150
"""Observations that the process looks at: a proposal stays within 15 ms."""
_PUBLISHED = 5
"""The first proposals, each the published schedule of another method, at the cost where it promises
most: a paper's schedule is a better guess than a random one, one method twice is a worse."""
_AGAIN = 1.25
"""Growth of what was seen after which hyper-parameters are found anew."""
_FEW = 5
"""Observations that say nothing about hyper-parameters yet."""
_LEAST_LEFT = 0.02
"""Share of the tokens below which one more or less no longer matters; above it, half as many again
is the same step everywhere."""
_STEP_WEIGHT = 2.0
"""Of the steepest reduction beside the tokens left at one depth."""
_DRAWS = 64
_RANKED = 12
"""More than a trial builder tries where proposals turn out to be known."""
_WHOLE = Priced({}, "none", 1.0, (1.0,) * BINS, 1.0)
"""The uncompressed model."""
_NOTHING = Priced({}, "none", 0.0, (0.0,) * BINS, 0.0)
"""No token left."""
_SEEN_OTHERWISE = (
    *("method", "budget_fraction", "family", "first_layer", "num_stages"),
    *("spacing", "taper", "inflection"),
)
"""Answers that the method and the tokens at each depth stand for."""
_STRONG = 0.2
"""Share of the tokens removed at which the method makes half of the difference it can make."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Rows:
    """Configurations as the process sees them, and their cost over the uncompressed model's."""

    inputs: Inputs
    macs: Floats

    def __add__(self, other: _Rows) -> _Rows:
        return _Rows(self.inputs + other.inputs, np.concatenate([self.macs, other.macs]))


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

    def propose(
        self,
        number: int,
        attempt: int,
        records: Sequence[TrialRecord],
        ceiling: float | None,
        earlier: Sequence[TrialRecord] = (),
    ) -> Params | None:
        """Parameters of trial `number`, the next best at each further attempt; None where all that
        could be thought of was tried.

        `ceiling` is the quality of the uncompressed model, where it is known; `earlier` records are
        those of another run of the same model and images, which may be tried again.
        """
        if self._ranked[0] != number:
            self._ranked = number, self._rank(number, records, ceiling, earlier)
        ranked = self._ranked[1]
        return ranked[attempt] if attempt < len(ranked) else None

    def _rank(
        self,
        number: int,
        records: Sequence[TrialRecord],
        ceiling: float | None,
        earlier: Sequence[TrialRecord],
    ) -> list[Params]:
        """The most promising proposals, best first."""
        known = [*earlier, *records]
        seen = [r for r in known if r.measured and r.config is not None and r.base is None]
        seen = self._visible(seen)
        fresh = self._around(number, seen)
        rows = self._pool_rows + self._rows_of(fresh)
        rng = np.random.default_rng([self._seed, number, 13])
        order = np.argsort(-self._gains(rows, seen, ceiling, rng), kind="stable")
        tried = {_key(r.params) for r in records}
        candidates, found = [*self._pool, *fresh], []
        opening = self._opening(seen)
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
    def _pool_rows(self) -> _Rows:
        return self._rows_of(self._pool)

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
        self,
        rows: _Rows,
        seen: Sequence[TrialRecord],
        ceiling: float | None,
        rng: np.random.Generator,
    ) -> Floats:
        """(m,) how much each candidate is expected to move the front."""
        history = self._rows_of_records(seen)
        beliefs = [self._belief(o, seen, history, ceiling, rows) for o in self._objectives]
        if len(beliefs) == 2 and [b.exact for b in beliefs].count(True) == 1:
            cost, quality = sorted(beliefs, key=lambda b: not b.exact)
            return _hypervolume_gain(cost, quality)
        return _scalar_gain(beliefs, rng)

    def _belief(
        self,
        objective: Objective,
        seen: Sequence[TrialRecord],
        history: _Rows,
        ceiling: float | None,
        rows: _Rows,
    ) -> _Belief:
        """What is known of one objective, for the candidates and for what was seen."""
        judged = METRICS[self._problem.metric].column == objective.name
        if objective.name == "macs_g" or not (seen or judged):  # unseen, it goes with the cost
            exact = objective.name == "macs_g"
            worst = float(history.macs.max(initial=1.0))
            return _Belief(rows.macs, np.zeros(len(rows.macs)), history.macs, worst, exact)
        values = losses([r.values for r in seen], [objective])[:, 0]
        variances = np.array([_variance(r, objective) for r in seen])
        inputs, worst = history.inputs, float(values.max(initial=-math.inf))
        if judged:
            whole = self._whole_loss(objective, ceiling)
            worst = self._blind_loss(values, whole)
            values, variances = np.append(values, [whole, worst]), np.append(variances, [0.0, 0.0])
            inputs = inputs + self._rows_of([_WHOLE, _NOTHING]).inputs
        values = np.minimum(values, _worst_told_apart(values))
        hyper = self._hyper(objective.name, len(seen), inputs, values, variances)
        posterior = fit(inputs, values, variances, hyper)
        means, deviations = posterior.at(rows.inputs)
        return _Belief(means, deviations, posterior.at(history.inputs)[0], worst, exact=False)

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

    def _hyper(
        self, name: str, count: int, inputs: Inputs, values: Floats, variances: Floats
    ) -> Hyper:
        """Hyper-parameters, found anew whenever a fifth more was seen."""
        if count < _FEW:
            return USUAL
        due = int(_AGAIN ** int(math.log(count, _AGAIN)))
        if (name, due) not in self._hypers:
            first = np.arange(min(due, _MOST_SEEN, len(values)))
            found = best_hyper(inputs.take(first), values[first], variances[first])
            self._hypers[name, due] = found
        return self._hypers[name, due]

    # --- as the process sees it

    def _rows_of(self, candidates: Sequence[Priced]) -> _Rows:
        return self._rows(
            [c.method for c in candidates],
            [c.params for c in candidates],
            np.array([c.profile for c in candidates]).reshape(-1, BINS),
            np.array([c.macs for c in candidates]),
            np.array([c.steepest for c in candidates]),
        )

    def _rows_of_records(self, seen: Sequence[TrialRecord]) -> _Rows:
        facts = self._problem.facts
        return self._rows(
            [r.config.method for r in seen if r.config],
            [r.params for r in seen],
            np.array([tokens_by_depth(r.layers, r.counts, facts) for r in seen]).reshape(-1, BINS),
            np.array([r.costs.macs / self._whole for r in seen if r.costs]),
            np.array([steepest(r.counts, facts) for r in seen]),
        )

    def _rows(
        self,
        methods: Sequence[str],
        params: Sequence[Mapping[str, Primitive]],
        profile: Floats,
        macs: Floats,
        steps: Floats,
    ) -> _Rows:
        gone = 1.0 - profile.mean(axis=1)
        left = np.log(profile + _LEAST_LEFT) / math.log(1.0 / _LEAST_LEFT)
        inputs = Inputs(
            profile=np.hstack([left, _STEP_WEIGHT * steps[:, None]]),
            removed=gone / (gone + _STRONG) * (1.0 + _STRONG),
            method=np.array(
                [self._methods.index(m) if m in self._methods else -1 for m in methods]
            ),
            kind=np.array([_kind_number(m) for m in methods]),
            details=self._scale.of(params),
        )
        return _Rows(inputs, macs)

    @cached_property
    def _methods(self) -> tuple[str, ...]:
        return self._problem.space.candidates(self._problem.facts)

    @cached_property
    def _scale(self) -> _Scale:
        return _Scale.over([c.params for c in self._pool])


@dataclass(frozen=True)
class _Belief:
    """One objective, as a loss: of the candidates (m,), and of what was seen (n,)."""

    means: Floats
    deviations: Floats
    seen: Floats
    worst: float
    """Beyond it nothing counts."""
    exact: bool


@dataclass(frozen=True)
class _Scale:
    """Options and other answers as numbers from 0 to 1."""

    places: Mapping[str, Callable[[Primitive], float]]
    """Of each question, where an answer stands among those that the pool gives."""

    @classmethod
    def over(cls, params: Sequence[Mapping[str, Primitive]]) -> _Scale:
        """From the proposals of a pool."""
        found: dict[str, set[Primitive]] = {}
        for answers in params:
            for name, value in answers.items():
                if name not in _SEEN_OTHERWISE and not name.startswith("finetune."):
                    found.setdefault(name, set()).add(value)
        several = {n: v for n, v in sorted(found.items()) if len(v) > 1}
        return cls({n: _placing(sorted(v, key=str)) for n, v in several.items()})

    def of(self, params: Sequence[Mapping[str, Primitive]]) -> Floats:
        """(n, d); what was not asked is 0.5."""
        found = np.full((len(params), len(self.places)), 0.5)
        for row, given in enumerate(params):
            for column, (name, place) in enumerate(self.places.items()):
                if name in given:
                    found[row, column] = place(given[name])
        return found


def _placing(known: Sequence[Primitive]) -> Callable[[Primitive], float]:
    """Where an answer stands between the first and the last of those known, 0 to 1."""
    if all(isinstance(k, (int, float)) and not isinstance(k, bool) for k in known):
        low, high = min(map(float, known)), max(map(float, known))
        return lambda value: (float(value) - low) / (high - low)
    number = {value: i / (len(known) - 1) for i, value in enumerate(known)}
    return lambda value: number.get(value, 0.5)


def _key(params: Mapping[str, Primitive]) -> tuple[tuple[str, Primitive], ...]:
    return tuple(sorted((k, v) for k, v in params.items() if k != "mode"))


def _kind_number(method: str) -> int:
    return list(Kind).index(get_method(method).kind)


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


def _hypervolume_gain(cost: _Belief, quality: _Belief) -> Floats:
    """(m,) expected gain of the area between the front and (cost of the uncompressed model, quality
    of guessing); the front is that of the means at what was seen."""
    order = np.argsort(cost.seen, kind="stable")
    edges = np.concatenate([[0.0], cost.seen[order], [cost.worst]])
    levels = np.minimum.accumulate(np.concatenate([[quality.worst], quality.seen[order]]))
    falls = np.concatenate([[True], levels[1:] < levels[:-1]])  # the front's own steps
    levels, edges = levels[falls], np.append(edges[:-1][falls], edges[-1])
    begin = np.maximum(edges[:-1], cost.means[:, None])
    widths = np.maximum(edges[1:] - begin, 0.0)  # (m, steps)
    return np.sum(widths * _expected_fall(levels, quality), axis=1)  # type: ignore[no-any-return]


def _expected_fall(levels: Floats, quality: _Belief) -> Floats:
    """(m, k) how far below each level a normal variable is expected to be, where it is below."""
    means, deviations = quality.means[:, None], np.maximum(quality.deviations[:, None], 1e-12)
    z = (levels - means) / deviations
    density = np.exp(-0.5 * z**2) / math.sqrt(2.0 * math.pi)
    return (levels - means) * ndtr(z) + deviations * density  # type: ignore[no-any-return]


def _scalar_gain(beliefs: Sequence[_Belief], rng: np.random.Generator) -> Floats:
    """(m,) expected improvement of one augmented Chebyshev scalarisation with random weights."""
    weights = rng.dirichlet(np.ones(len(beliefs)))
    seen = np.stack([b.seen if len(b.seen) else [b.worst] for b in beliefs], axis=-1)
    low = np.array([(b.seen if len(b.seen) else b.means).min() for b in beliefs])
    wide = np.maximum(seen.max(axis=0) - low, 1e-12)

    def scalar(columns: Floats) -> Floats:  # (..., objectives)
        scaled = weights * (columns - low) / wide
        return scaled.max(axis=-1) + 0.05 * scaled.sum(axis=-1)  # type: ignore[no-any-return]

    best = float(scalar(seen).min())
    draws = rng.standard_normal((_DRAWS, 1, len(beliefs)))
    means = np.stack([b.means for b in beliefs], axis=-1)
    deviations = np.stack([b.deviations for b in beliefs], axis=-1)
    values = scalar(means + deviations * draws)  # (draws, m)
    return np.maximum(best - values, 0.0).mean(axis=0)  # type: ignore[no-any-return]
