"""`PredictedLimits`: what limits on predicted metrics leave to a shape, as far as few predictions say.

A prediction costs a trace of the model: of thousands of candidates none can have its own. The
published schedules have one each, and a Gaussian process over what quality is learnt from says what
others would be predicted. That is what a choice rests on; repair meets the limits themselves.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from autotok.config import CompressionConfig
from autotok.errors import AutotokError
from autotok.searching.space.problem import Problem
from autotok.searching.space.search_space import Params

from .candidates import Priced, priced_at, steepest, tokens_by_depth
from .features import WHOLE, Features
from .gaussian_process import Posterior, best_hyper, fit
from .repair import Strengths

_SHARES = (0.1, 0.5, 0.3, 0.7)
"""Where published schedules are predicted, one after the other: of the way from the cheapest of a
shape to the uncompressed model."""
_LADDER = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Costs of a shape between which a limit is looked for."""
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
        self._budgets = [b for b in problem.budgets if not b.exact and problem.predict]

    def most(self, params: Params) -> float:
        """Multiply-accumulates that a shape may have; infinite where nothing predicted is limited,
        0 where not even its cheapest is believed inside."""
        ladder = priced_at(params, _LADDER, self._problem, self._whole) if self._budgets else []
        if not ladder:
            return math.inf
        rows = self._features.of(ladder)
        macs = rows.macs * self._whole
        return min(_crossing(macs, p.at(rows.inputs)[0]) for p in self._posteriors)

    @cached_property
    def _posteriors(self) -> list[Posterior]:
        """Of each limit: by which share a configuration is outside."""
        sample = [(WHOLE, self._whole_predicted())]
        for number, params in enumerate(self._starts):
            found = self._predicted(params, _SHARES[number % len(_SHARES)])
            sample += [] if found is None else [found]
        inputs = self._features.of([priced for priced, _ in sample]).inputs
        exactly = np.zeros(len(sample))
        posteriors = []
        for budget in self._budgets:
            over = np.array([budget.excess_of(values) for _, values in sample])
            hyper = dataclasses.replace(best_hyper(inputs, over, exactly), noise=_NOISE)
            posteriors.append(fit(inputs, over, exactly, hyper))
        return posteriors

    def _whole_predicted(self) -> Mapping[str, float]:
        assert self._problem.predict is not None
        return self._problem.predict(CompressionConfig())

    def _predicted(
        self, params: Params, share: float
    ) -> tuple[Priced, Mapping[str, float]] | None:
        """A shape at about this share of its costs, with what is predicted of it."""
        try:
            shape = self._problem.space.decode(params, self._problem.facts)
        except AutotokError:  # a combination that the method refuses
            return None
        line, facts = Strengths(shape, self._problem), self._problem.facts
        low = line.lowest("macs")
        strength = line.weakest("macs", low + share * max(self._whole - low, 0.0))
        at = line.at(1.0 if strength is None else strength)
        if at.costs is None:
            return None
        left = tokens_by_depth(at.layers, at.counts, facts)
        macs = at.costs.macs / self._whole
        priced = Priced(params, shape.method, macs, left, steepest(at.counts, facts))
        return priced, at.predicted


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
