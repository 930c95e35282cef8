"""Repair to the budget: a proposal keeps its shape, one scalar is solved on the exact cost.

The scalar is the strength of `Shape`. Its range runs from the weakest reduction inside every budget
to the strongest the method can make; the asked `budget_fraction` picks a cost between those two.
Counts are integers throughout, so what is solved is what will run.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from autotok.config import CompressionConfig
from autotok.counting.cost import Cost
from autotok.metrics import METRICS
from autotok.searching.space.budget import Budget, worst_excess
from autotok.searching.space.problem import Problem
from autotok.searching.space.shape import Shape
from autotok.searching.space.subnets import Subnets

_PREDICTIONS = 7
"""Of one shape at most, to meet one predicted limit: each costs a trace of the model."""
_CLOSE = 0.005
"""A predicted limit is met when it is missed by less than this share."""
_POINTS, _ROUNDS = 48, 4
"""Of the search for a strength on a cost that a whole row of counts is priced by at once."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Repaired:
    """A configuration inside every budget, or why its shape has none."""

    config: CompressionConfig | None
    layers: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()
    costs: Cost | None = None
    predicted: Mapping[str, float] = field(default_factory=dict)
    violation: float = 0.0
    """Share by which the nearest configuration misses the worst budget; 0 or less is inside."""
    reason: str = ""

    @property
    def values(self) -> dict[str, float]:
        """What a budget can be about."""
        return {**(vars(self.costs) if self.costs else {}), **self.predicted}

    @property
    def feasible(self) -> bool:
        """Whether there is a configuration to evaluate."""
        return self.config is not None


class Strengths:
    """The configurations of one shape, by strength from 0 to 1."""

    def __init__(self, shape: Shape, problem: Problem) -> None:
        self.shape, self._problem = shape, problem
        self._facts, self._costs = problem.facts_of(shape.backbone), problem.costs
        self._predicted: dict[tuple[int, ...], Mapping[str, float]] = {}
        self._macs: dict[bytes, float] = {}
        """By a row of counts."""

    def at(self, strength: float) -> Repaired:
        """The configuration of one strength, inside the budgets or not."""
        config = self._config(strength)
        found = Repaired(
            config,
            tuple(r.layer for r in config.reductions),
            tuple(int(r.num_keep or 0) for r in config.reductions),
            self._costs.cost(config),
            self.predicted(strength),
        )
        over = worst_excess(self._problem.budgets, found.values)
        return dataclasses.replace(found, violation=over)

    def _counts(self, strength: float) -> NDArray[np.int64]:
        """(S,) counts at one strength."""
        row: NDArray[np.int64] = self.shape.counts(np.array([strength]), self._facts)[0]
        return row

    def _config(self, strength: float) -> CompressionConfig:
        config = self.shape.config(self._counts(strength), self._facts)
        if config.exits is None:
            return config
        mean = int(self.metric("macs", np.array([strength]))[0])
        exits = dataclasses.replace(config.exits, threshold=(), mean_macs=mean)
        return dataclasses.replace(config, exits=exits)

    def metric(self, name: str, strengths: Floats) -> Floats:
        """(M,) exact cost at each strength."""
        counts = self.shape.counts(strengths, self._facts)
        if name == "macs" and self.shape.exits is not None:
            first, end = self._costs.exit_macs(self.shape, counts).T.astype(np.float64)
            mean: Floats = end - self.shape.stopping(strengths) * (end - first)
            return mean
        if name == "macs" and self.shape.layers:
            return self._macs_of(counts)
        found = [self._costs.cost(self._config(float(strength))) for strength in strengths]
        return np.array([getattr(costs, name) for costs in found])

    def _macs_of(self, counts: NDArray[np.int64]) -> Floats:
        """(M,) multiply-accumulates of (M, S) rows of counts, of each different row once."""
        s, rows = self.shape, [row.tobytes() for row in counts]
        new = {row: at for at, row in enumerate(rows) if row not in self._macs}
        if new:
            fresh = counts[list(new.values())]
            macs = self._costs.schedule_macs(
                *(s.method, s.options, s.layers, fresh, s.subnet, s.image_size, s.backbone)
            )
            self._macs.update(zip(new, macs.astype(np.float64).tolist(), strict=True))
        return np.array([self._macs[row] for row in rows])

    def lowest(self, name: str) -> float:
        """The metric of the strongest, exact or predicted."""
        if METRICS[name].kind == "exact":
            return float(self.metric(name, np.ones(1))[0])
        return float(self.predicted(1.0)[name])

    def predicted(self, strength: float) -> Mapping[str, float]:
        """Predicted metrics at one strength, cached by counts."""
        if self._problem.predict is None:
            return {}
        key = tuple(self._counts(strength).tolist())
        if key not in self._predicted:
            self._predicted[key] = dict(self._problem.predict(self._config(strength)))
        return self._predicted[key]

    def weakest(self, name: str, limit: float) -> float | None:
        """The smallest strength whose exact cost, and every stronger one's, is within the limit."""
        points, rounds = (_POINTS, _ROUNDS) if name == "macs" else (8, 6)
        low, high = 0.0, 1.0
        for _ in range(rounds):
            grid = np.linspace(low, high, points)
            over = np.flatnonzero(self.metric(name, grid) > limit)
            if not len(over):
                return float(grid[0])
            if over[-1] == points - 1:
                return None
            low, high = float(grid[over[-1]]), float(grid[over[-1] + 1])
        return high

    def weakest_inside(self, macs: float = math.inf) -> float | Budget:
        """The smallest strength inside every budget and `macs`; the budget that none meets."""
        weakest = 0.0
        budgets = sorted(self._problem.budgets, key=lambda b: not b.exact)  # the cheap ones first
        budgets = [Budget("macs", macs, ""), *budgets] if macs < math.inf else budgets
        for budget in budgets:
            if budget.exact:
                strength = self.weakest(budget.metric, budget.limit)
            else:
                strength = self._weakest_predicted(budget, weakest)
            if strength is None:
                return budget
            weakest = max(weakest, strength)
        return weakest

    def _weakest_predicted(self, budget: Budget, start: float) -> float | None:
        """The smallest strength from `start` on that is predicted to be within the limit."""
        low, high = start, 1.0
        if budget.holds(self.predicted(low)[budget.metric]):
            return low
        if not budget.holds(self.predicted(high)[budget.metric]):
            return None
        for _ in range(_PREDICTIONS):
            middle = self._between(budget, low, high)
            value = self.predicted(middle)[budget.metric]
            low, high = (low, middle) if budget.holds(value) else (middle, high)
            if -_CLOSE < budget.excess_of(self.predicted(high)) <= 0.0:
                break
        return high

    def _between(self, budget: Budget, low: float, high: float) -> float:
        """Where the metric would meet the limit if it were a straight line over the MACs."""
        above, below = (budget.excess_of(self.predicted(s)) for s in (low, high))
        share = above / (above - below) if above > below else 0.5
        most, least = self.metric("macs", np.array([low, high]))
        target = most - min(0.95, max(0.05, share)) * (most - least)
        strength = self.weakest("macs", float(target))
        return strength if strength is not None and low < strength < high else (low + high) / 2

    def verdict(self, budget: Budget) -> Repaired:
        """Infeasible: how far off the cheapest of the shape is, and what stops it."""
        lowest, shape = self.lowest(budget.metric), self.shape
        reason = (
            f"{shape.method} at layers {list(shape.layers)} reaches"
            f" {METRICS[budget.metric].in_words(lowest)} at its cheapest:"
            f" {shape.blocked_at(self._facts)}"
        )
        return Repaired(None, shape.layers, violation=budget.excess(lowest), reason=reason)


def repair(shape: Shape, fraction: float, problem: Problem) -> Repaired:
    """The configuration of this shape whose cost meets `fraction` of the way to the limit.

    0 is the cheapest the shape can reach, 1 the most expensive inside every budget. Where subnets
    are searched too, the subnet stays as proposed as long as fewer tokens can meet the budget; a
    shape without reduction layers, or one whose every token is needed, gets a smaller subnet.
    """
    line: Strengths | Repaired = Strengths(shape, problem)
    if problem.space.structure is not None:
        line = _on_fitting_subnet(shape, fraction, problem, problem.space.structure)
    return line if isinstance(line, Repaired) else _at_fraction(line, fraction, problem)


def match_cost(shape: Shape, macs: int, problem: Problem) -> Repaired | None:
    """The most expensive configuration of this shape within `macs` and every budget; None if it has
    none."""
    line = Strengths(shape, problem)
    strength = line.weakest_inside(macs)
    result = None if isinstance(strength, Budget) else line.at(strength)
    return result if result is not None and result.violation <= 0.0 else None


def _at_fraction(line: Strengths, fraction: float, problem: Problem) -> Repaired:
    """The configuration that far between the cheapest and the limit."""
    weakest = line.weakest_inside()
    if isinstance(weakest, Budget):
        return line.verdict(weakest)
    strength, (least, most) = weakest, line.metric("macs", np.array([1.0, weakest]))
    if fraction < 1.0 and least < most:
        target = least + fraction * (most - least)
        strength = max(weakest, line.weakest("macs", float(target)) or 1.0)
    for candidate in dict.fromkeys((strength, weakest)):
        result = line.at(candidate)
        if result.violation <= 0.0:
            return result
    return line.verdict(max(problem.budgets, key=lambda b: b.excess_of(result.values)))


def _on_fitting_subnet(
    shape: Shape, fraction: float, problem: Problem, structure: Subnets
) -> Strengths | Repaired:
    """The shape on the largest subnet, from the proposed one downwards, that the budgets allow."""
    path = [
        dataclasses.replace(shape, subnet=structure.canonical(subnet))
        for subnet in structure.shrunk(shape.subnet or structure.default)
    ]
    lines = [Strengths(s.within(structure.facts(s.subnet).num_blocks), problem) for s in path]
    exact = [b for b in problem.budgets if b.exact]
    first = bisect.bisect_left(
        lines, True, key=lambda line: all(line.lowest(b.metric) <= b.limit for b in exact)
    )
    if first == len(lines):
        last = lines[-1]
        return last.verdict(max(exact, key=lambda b: last.lowest(b.metric) / b.limit))
    if not shape.layers and fraction < 1.0:
        least, most = lines[-1].lowest("macs"), lines[first].lowest("macs")
        target = least + fraction * (most - least)
        first += bisect.bisect_left(
            lines[first:], True, key=lambda line: line.lowest("macs") <= target
        )
    return lines[min(first, len(lines) - 1)]
