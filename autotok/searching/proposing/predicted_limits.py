"""`PredictedLimits`: what limits on predicted metrics leave to a shape, as few predictions say it.

A prediction costs a trace of the model: of thousands of candidates none can have its own. The
published schedules have one each, and a Gaussian process over what quality is learnt from says what
others would be predicted. That is what a choice rests on; repair meets the limits themselves.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from autotok.config import Primitive
from autotok.errors import AutotokError
from autotok.searching.space.parameters import Params
from autotok.searching.space.problem import Problem

from .candidates import Priced, priced_as, priced_at
from .features import WHOLE, Features
from .gaussian_process import Posterior, best_hyper, fit
from .repair import Strengths

_SHARES = (0.1, 0.5, 0.3, 0.7)
"""Where published schedules are predicted, one after the other: of the way from the cheapest of a
shape to the uncompressed model."""
_LADDER = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Costs of a shape between which a limit is looked for."""
_SHARED, _RIDGE = 3, 1.0
"""Causes that all methods have in common; how much is needed to believe that one is its own."""
_NOISE = 1e-4
"""Predictions have no error of their own; that of the process is left."""
Floats = NDArray[np.float64]


class PredictedLimits:
    """Limits on latency, throughput, memory ... in multiply-accumulates of one shape."""

    def __init__(
        self, problem: Problem, features: Features, starts: Sequence[Params], whole: float
    ) -> None:
        """`starts` are predicted; `whole` is the cost of the uncompressed model."""
        self._problem, self._features = problem, features
        self._starts, self._whole = starts, whole
        self._methods = problem.space.candidates(problem.facts)
        self._budgets = [b for b in problem.budgets if not b.exact and problem.predict]

    def most(self, params: Params) -> float:
        """Multiply-accumulates that a shape may have; infinite where nothing predicted is limited,
        0 where not even its cheapest is believed inside."""
        ladder = priced_at(params, _LADDER, self._problem, self._whole) if self._budgets else []
        if not ladder:
            return math.inf
        inputs, macs = self._features.of(ladder).inputs, np.array([c.macs for c in ladder])
        over = [
            self._known_causes(ladder) @ weights + rest.at(inputs)[0]
            for weights, rest in self._believed
        ]
        return self._whole * min(_crossing(macs, excess) for excess in over)

    def _known_causes(self, candidates: Sequence[Priced]) -> Floats:
        """(n, ...) What a prediction rises with: cost, and the tokens that a method works on."""
        known = np.zeros((len(candidates), _SHARED + len(self._methods)))
        known[:, :_SHARED] = [(1.0, c.macs, c.entering) for c in candidates]
        for row, candidate in enumerate(candidates):
            if candidate.method in self._methods:
                known[row, _SHARED + self._methods.index(candidate.method)] = candidate.entering
        return known

    @cached_property
    def _believed(self) -> list[tuple[Floats, Posterior]]:
        """Of each limit, by which share a configuration is outside: weights of the known causes,
        and what they leave."""
        sample = list(self._sample())
        priced = [candidate for candidate, _ in sample]
        inputs, causes = self._features.of(priced).inputs, self._known_causes(priced)
        exactly, found = np.zeros(len(sample)), []
        for budget in self._budgets:
            over = np.array([budget.excess_of(values) for _, values in sample])
            doubt = np.diag([1e-6] * _SHARED + [_RIDGE] * len(self._methods))
            weights = np.linalg.solve(causes.T @ causes + doubt, causes.T @ over)
            rest = over - causes @ weights
            hyper = dataclasses.replace(best_hyper(inputs, rest, exactly), noise=_NOISE)
            found.append((weights, fit(inputs, rest, exactly, hyper)))
        return found

    def _sample(self) -> Iterator[tuple[Priced, Mapping[str, float]]]:
        """The uncompressed model and the first schedule of every method, with predictions."""
        assert self._problem.predict is not None
        yield WHOLE, self._problem.predict(self._problem.whole)
        firsts: dict[tuple[Primitive, ...], Params] = {}
        for params in self._starts:
            firsts.setdefault((params["method"], params.get("backbone", "")), params)
        for number, params in enumerate(firsts.values()):
            try:
                shape = self._problem.space.decode(params, self._problem.facts)
            except AutotokError:  # a combination that the method refuses
                continue
            facts = self._problem.costs.facts(shape.subnet, shape.image_size, shape.backbone)
            line = Strengths(shape, self._problem)
            low, share = line.lowest("macs"), _SHARES[number % len(_SHARES)]
            strength = line.weakest("macs", low + share * max(self._whole - low, 0.0))
            at = line.at(1.0 if strength is None else strength)
            if at.costs is not None:
                macs, model = at.costs.macs / self._whole, self._problem.facts_of(shape.backbone)
                asked = params, shape.method, macs, at.layers, at.counts, facts
                yield priced_as(*asked, model=model), at.predicted


def _crossing(macs: Floats, over: Floats) -> float:
    """Where what rises with the cost begins to be outside."""
    outside = np.flatnonzero(over > 0.0)
    if not len(outside):
        return math.inf
    first = int(outside[0])
    if first == 0:
        return 0.0
    pair = slice(first - 1, first + 1)
    return float(np.interp(0.0, over[pair], macs[pair]))
