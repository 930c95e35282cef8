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

from .candidates import BINS, Priced, nearby, priced_at, random_params, tokens_by_depth
from .gaussian_process import Hyper, Inputs, best_hyper, fit

_SHAPES, _FRACTIONS = 400, 4
"""Of the candidates made once, before the first trial: half a second."""
_NEAR_SHAPES = 8
"""New shapes around the front for each proposal: 10 ms."""
_MOST_SEEN = 150
"""Observations that the process looks at: a proposal stays within 15 ms."""
_LEAST_SEEN = 3
_AGAIN = 1.25
"""Growth of what was seen after which hyper-parameters are found anew."""
_COST_WEIGHT = 2.0
"""Of the cost beside the tokens left at one depth, as one says little about many layers."""
_DRAWS = 64
_RANKED = 12
"""More than a trial builder tries where proposals turn out to be known."""
_WHOLE = Priced({}, "none", 1.0, (1.0,) * BINS)
"""The uncompressed model."""
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
        """Parameters of trial `number`, the next best at each further attempt; None where nothing
        was seen yet.

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
        """The most promising proposals, best first; none where too little was seen."""
        known = [*earlier, *records]
        seen = [r for r in known if r.measured and r.config is not None and r.base is None]
        if len(seen) < _LEAST_SEEN:
            return []
        seen = self._visible(seen)
        fresh = self._around(number, seen)
        rows = self._pool_rows + self._rows_of(fresh)
        rng = np.random.default_rng([self._seed, number, 13])
        order = np.argsort(-self._gains(rows, seen, ceiling, rng), kind="stable")
        tried = {_key(r.params) for r in records}
        candidates, found = [*self._pool, *fresh], []
        for index in order.tolist():
            params = candidates[index].params
            if _key(params) not in tried:
                found.append(params)
            if len(found) == _RANKED:
                break
        return found

    # --- what could be tried

    @cached_property
    def _pool(self) -> list[Priced]:
        rng = np.random.default_rng([self._seed, 7])
        shapes = [*self._starts, *(random_params(self._problem, rng) for _ in range(_SHAPES))]
        return [c for params in shapes for c in self._spread(params, rng)]

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
        if objective.name == "macs_g":
            return _Belief(rows.macs, np.zeros(len(rows.macs)), history.macs, exact=True)
        values = losses([r.values for r in seen], [objective])[:, 0]
        variances = np.array([_variance(r, objective) for r in seen])
        inputs = history.inputs
        if ceiling is not None and any(_judged(r, objective) for r in seen):
            sign = -1.0 if objective.maximise else 1.0
            values, variances = np.append(values, sign * ceiling), np.append(variances, 0.0)
            inputs = inputs + self._rows_of([_WHOLE]).inputs
        values = np.minimum(values, _worst_told_apart(values))
        hyper = self._hyper(objective.name, len(seen), inputs, values, variances)
        posterior = fit(inputs, values, variances, hyper)
        means, deviations = posterior.at(rows.inputs)
        return _Belief(means, deviations, posterior.at(history.inputs)[0], exact=False)

    def _hyper(
        self, name: str, count: int, inputs: Inputs, values: Floats, variances: Floats
    ) -> Hyper:
        """Hyper-parameters, found anew whenever a fifth more was seen."""
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
        )

    def _rows_of_records(self, seen: Sequence[TrialRecord]) -> _Rows:
        facts = self._problem.facts
        return self._rows(
            [r.config.method for r in seen if r.config],
            [r.params for r in seen],
            np.array([tokens_by_depth(r.layers, r.counts, facts) for r in seen]).reshape(-1, BINS),
            np.array([r.costs.macs / self._whole for r in seen if r.costs]),
        )

    def _rows(
        self,
        methods: Sequence[str],
        params: Sequence[Mapping[str, Primitive]],
        profile: Floats,
        macs: Floats,
    ) -> _Rows:
        gone = 1.0 - profile.mean(axis=1)
        inputs = Inputs(
            profile=np.hstack([profile, _COST_WEIGHT * macs[:, None]]),
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
    """(m,) expected gain of the area between the front and (cost of the uncompressed model, worst
    quality of what was seen); the front is that of the means at what was seen."""
    order = np.argsort(cost.seen, kind="stable")
    edges = np.concatenate([[0.0], cost.seen[order], [max(1.0, float(cost.seen.max()))]])
    worst = float(quality.seen.max())
    levels = np.concatenate([[worst], np.minimum.accumulate(quality.seen[order])])
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

    def scalar(columns: Floats) -> Floats:  # (..., objectives)
        low = np.array([b.seen.min() for b in beliefs])
        wide = np.array([max(float(np.ptp(b.seen)), 1e-12) for b in beliefs])
        scaled = weights * (columns - low) / wide
        return scaled.max(axis=-1) + 0.05 * scaled.sum(axis=-1)  # type: ignore[no-any-return]

    best = float(scalar(np.stack([b.seen for b in beliefs], axis=-1)).min())
    draws = rng.standard_normal((_DRAWS, 1, len(beliefs)))
    means = np.stack([b.means for b in beliefs], axis=-1)
    deviations = np.stack([b.deviations for b in beliefs], axis=-1)
    values = scalar(means + deviations * draws)  # (draws, m)
    return np.maximum(best - values, 0.0).mean(axis=0)  # type: ignore[no-any-return]
