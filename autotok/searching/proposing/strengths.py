"""`Strengths`: configurations of one shape in order of strength, and what repair makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from autotok.config import CompressionConfig
from autotok.facts import BackboneFacts
from autotok.metrics import METRICS
from autotok.searching.records.record import Costs
from autotok.searching.space.budget import Budget
from autotok.searching.space.problem import CostModel
from autotok.searching.space.shape import Shape

__all__ = ["Strengths", "Repaired", "verdict"]

_POINTS, _ROUNDS = 48, 4
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Repaired:
    """A configuration inside every budget, or why its shape has none."""

    config: CompressionConfig | None
    layers: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()
    costs: Costs | None = None
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
    """The configurations of one shape, by strength."""

    def __init__(self, shape: Shape, facts: BackboneFacts, costs: CostModel) -> None:
        self.shape, self.facts, self.costs = shape, facts, costs
        self.strongest = 1.0

    def counts(self, strength: float) -> NDArray[np.int64]:
        """(S,) counts at one strength."""
        row: NDArray[np.int64] = self.shape.counts(np.array([strength]), self.facts)[0]
        return row

    def config(self, strength: float) -> CompressionConfig:
        return self.shape.config(self.counts(strength), self.facts)

    def metric(self, name: str, strengths: Floats) -> Floats:
        """(M,) exact cost at each strength."""
        counts = self.shape.counts(strengths, self.facts)
        if name == "macs" and self.shape.layers:
            shape = self.shape
            macs = self.costs.schedule_macs(
                shape.method, shape.options, shape.layers, counts, shape.subnet
            )
            return macs.astype(np.float64)
        return np.array(
            [getattr(self.costs.cost(self.shape.config(c, self.facts)), name) for c in counts]
        )

    def weakest(self, name: str, limit: float) -> float | None:
        """The smallest strength whose cost, and every stronger one's, is within the limit."""
        points = _POINTS if name == "macs" else 8
        rounds = _ROUNDS if name == "macs" else 6
        low, high = 0.0, self.strongest
        for _ in range(rounds):
            grid = np.linspace(low, high, points)
            over = np.flatnonzero(self.metric(name, grid) > limit)
            if not len(over):
                return float(grid[0])
            if over[-1] == points - 1:
                return None
            low, high = float(grid[over[-1]]), float(grid[over[-1] + 1])
        return high


def verdict(
    line: Strengths, budget: Budget, predicted: Mapping[str, float] | None = None
) -> Repaired:
    """Infeasible: how far off the cheapest of the shape is, and what stops it."""
    if budget.exact:
        lowest = float(line.metric(budget.metric, np.array([line.strongest]))[0])
    else:
        lowest = float((predicted or {})[budget.metric])
    reason = (
        f"{line.shape.method} at layers {list(line.shape.layers)} reaches"
        f" {METRICS[budget.metric].limit_in_words(lowest)} at its cheapest:"
        f" {line.shape.blocked_at(line.facts)}"
    )
    return Repaired(None, line.shape.layers, violation=budget.excess(lowest), reason=reason)
