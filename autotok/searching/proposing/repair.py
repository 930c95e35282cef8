"""Repair to the budget: a proposal keeps its shape, one scalar is solved on the exact cost.

The scalar is the strength of `Shape`. Its range runs from the weakest reduction inside every budget
to the strongest the method can make; the asked `budget_fraction` picks a cost between those two.
Counts are integers throughout, so what is solved is what will run.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping

import numpy as np

from autotok.config import CompressionConfig, Primitive
from autotok.errors import InfeasibleBudget
from autotok.metrics import METRICS
from autotok.searching.space.budget import Budget, worst_excess
from autotok.searching.space.problem import Problem
from autotok.searching.space.search_space import Chooser, Parameter
from autotok.searching.space.shape import Shape

from .fit_subnet import with_fitting_subnet
from .strengths import Repaired, Strengths, verdict

__all__ = ["Repaired", "cheapest", "check_budgets", "idle_budgets", "match_cost", "repair"]

_PREDICTIONS = 7


def repair(shape: Shape, fraction: float, problem: Problem) -> Repaired:
    """The configuration of this shape whose cost meets `fraction` of the way to the limit.

    0 is the cheapest the shape can reach, 1 the most expensive inside every budget. Where subnets
    are searched too, the subnet stays as proposed as long as fewer tokens can meet the budget; a
    shape without reduction layers, or one whose every token is needed, gets a smaller subnet.
    """
    structure = problem.space.structure
    if structure is not None:
        fitted = with_fitting_subnet(shape, fraction, problem, structure)
        if isinstance(fitted, Repaired):
            return fitted
        shape = fitted
    return _repair_tokens(shape, fraction, problem)


def _repair_tokens(shape: Shape, fraction: float, problem: Problem) -> Repaired:
    """`repair` on a subnet that stays."""
    line = Strengths(shape, problem.facts, problem.costs)
    weakest, failed = 0.0, None
    exact = [b for b in problem.budgets if b.exact]
    for budget in exact:
        strength = line.weakest(budget.metric, budget.limit)
        if strength is None:
            failed = failed or verdict(line, budget)
        else:
            weakest = max(weakest, strength)
    if failed is not None:
        return failed
    predictions = _Predictions(problem, line)
    for budget in problem.budgets:
        if not budget.exact:
            found = predictions.weakest(budget, weakest)
            if isinstance(found, Repaired):
                return found
            weakest = found
    return _at_fraction(line, weakest, fraction, problem, predictions)


def _at_fraction(
    line: Strengths, weakest: float, fraction: float, problem: Problem, predictions: _Predictions
) -> Repaired:
    ends = line.metric("macs", np.array([line.strongest, weakest]))
    strength = weakest
    if fraction < 1.0 and ends[0] < ends[1]:
        target = ends[0] + fraction * (ends[1] - ends[0])
        strength = max(weakest, line.weakest("macs", float(target)) or line.strongest)
    for candidate in dict.fromkeys((strength, weakest)):
        result = _result(line, candidate, predictions)
        if result.violation <= 0.0:
            return result
    budget = max(problem.budgets, key=lambda b: b.excess_of(result.values))
    return verdict(line, budget, predictions.at(line.strongest))


def _result(line: Strengths, strength: float, predictions: _Predictions) -> Repaired:
    config = line.config(strength)
    result = Repaired(
        config,
        tuple(r.layer for r in config.reductions),
        tuple(int(r.num_keep or 0) for r in config.reductions),
        line.costs.cost(config),
        predictions.at(strength),
    )
    over = worst_excess(predictions.problem.budgets, result.values)
    return dataclasses.replace(result, violation=over)


class _Predictions:
    """Predicted metrics of one line, cached by counts: a prediction costs a trace of the model."""

    def __init__(self, problem: Problem, line: Strengths) -> None:
        self.problem, self._line = problem, line
        self._known: dict[tuple[int, ...], Mapping[str, float]] = {}

    def at(self, strength: float) -> Mapping[str, float]:
        if self.problem.predict is None:
            return {}
        key = tuple(self._line.counts(strength).tolist())
        if key not in self._known:
            self._known[key] = dict(self.problem.predict(self._line.config(strength)))
        return self._known[key]

    def weakest(self, budget: Budget, start: float) -> float | Repaired:
        """The smallest strength from `start` on that is predicted to be within the limit."""
        low, high = start, self._line.strongest
        if budget.holds(self.at(low)[budget.metric]):
            return low
        if not budget.holds(self.at(high)[budget.metric]):
            return verdict(self._line, budget, self.at(high))
        for _ in range(_PREDICTIONS):
            middle = self._between(budget, low, high)
            value = self.at(middle)[budget.metric]
            low, high = (low, middle) if budget.holds(value) else (middle, high)
            if -0.005 < budget.excess(self.at(high)[budget.metric]) <= 0.0:
                break
        return high

    def _between(self, budget: Budget, low: float, high: float) -> float:
        """Where the metric would meet the limit if it were a straight line over the MACs."""
        above, below = (budget.excess(self.at(s)[budget.metric]) for s in (low, high))
        share = above / (above - below) if above > below else 0.5
        most, least = self._line.metric("macs", np.array([low, high]))
        target = most - min(0.95, max(0.05, share)) * (most - least)
        strength = self._line.weakest("macs", float(target))
        return strength if strength is not None and low < strength < high else (low + high) / 2


def match_cost(shape: Shape, macs: int, problem: Problem) -> Repaired | None:
    """The most expensive configuration of this shape within `macs` and every budget; None if it has
    none."""
    line = Strengths(shape, problem.facts, problem.costs)
    limits = [("macs", float(macs))] + [(b.metric, b.limit) for b in problem.budgets if b.exact]
    strengths = [line.weakest(metric, limit) for metric, limit in limits]
    if None in strengths:
        return None
    strength = max(s for s in strengths if s is not None)
    predictions = _Predictions(problem, line)
    for budget in problem.budgets:
        if not budget.exact:
            found = predictions.weakest(budget, strength)
            if isinstance(found, Repaired):
                return None
            strength = found
    result = _result(line, strength, predictions)
    return result if result.violation <= 0.0 else None


def check_budgets(problem: Problem) -> None:
    """Raise `InfeasibleBudget` if nothing in the space meets the budgets.

    The message names the nearest feasible one: the cheapest over all methods and extreme shapes.
    """
    for budget in problem.budgets:
        if budget.exact:
            lowest, method = _lowest(problem, budget)
            if budget.holds(lowest):
                continue
            raise InfeasibleBudget(_sorry(budget, lowest, method))
        predicted = {
            m: _predict_cheapest(problem, m, budget.metric)
            for m in problem.space.candidates(problem.facts)
        }
        method = min(predicted, key=lambda m: budget.excess(predicted[m]))
        if not budget.holds(predicted[method]):
            raise InfeasibleBudget(_sorry(budget, predicted[method], method))


def idle_budgets(problem: Problem) -> tuple[str, ...]:
    """A sentence on every budget that the uncompressed model keeps: it limits nothing.

    Where subnets are searched too, the largest of them may cost more: nothing is said.
    """
    if problem.space.structure is not None:
        return ()
    whole = CompressionConfig()
    known = dataclasses.asdict(problem.costs.cost(whole))
    if problem.predict is not None and not all(b.exact for b in problem.budgets):
        known |= problem.predict(whole)
    return tuple(
        f"budget {b.text} limits nothing: the uncompressed model costs"
        f" {METRICS[b.metric].limit_in_words(known[b.metric])}; give a smaller one to have it"
        " compressed"
        for b in problem.budgets
        if b.metric in known and b.holds(known[b.metric])
    )


def _sorry(budget: Budget, lowest: float, method: str) -> str:
    metric = METRICS[budget.metric]
    words, short = metric.limit_in_words(lowest), metric.nearest_budget(lowest)
    least = "less" if metric.higher_is_better else "more"
    return (
        f"budget {budget.echo}, cannot be met: the cheapest configuration of the space ({method})"
        f" needs {words}; ask for {short} or {least}, or widen the space"
    )


def _lowest(problem: Problem, budget: Budget) -> tuple[float, str]:
    found = []
    for method in problem.space.candidates(problem.facts):
        lowest, _ = cheapest(problem, method, budget.metric)
        found.append((lowest, method))
    return min(found)


def cheapest(problem: Problem, method: str, metric: str) -> tuple[float, Shape]:
    """The lowest cost a method reaches over the corners of the space, and the shape that does."""
    best: tuple[float, Shape] | None = None
    for shape in _corners(problem, method):
        line = Strengths(shape, problem.facts, problem.costs)
        value = float(line.metric(metric, np.array([line.strongest]))[0])
        if best is None or value < best[0]:
            best = value, shape
    assert best is not None
    return best


def _predict_cheapest(problem: Problem, method: str, metric: str) -> float:
    _, shape = cheapest(problem, method, "macs")
    line = Strengths(shape, problem.facts, problem.costs)
    return float(_Predictions(problem, line).at(line.strongest)[metric])


def _corners(problem: Problem, method: str) -> list[Shape]:
    """Shapes at the ends of every schedule range; options stay at their first answer."""
    shapes: dict[str, Shape] = {}
    corners = itertools.product((False, True), repeat=4)
    for family, ends in itertools.product(problem.space.families, corners):
        params = problem.space.walk(_at_corner(method, family, ends), problem.facts)
        shape = problem.space.decode(params, problem.facts)
        shapes[repr((shape.layers, shape.weights, shape.curve))] = shape
    return list(shapes.values())


_SLOTS = {"first_layer": 0, "num_stages": 1, "spacing": 2, "taper": 3, "inflection": 3}


def _at_corner(method: str, family: str, ends: tuple[bool, ...]) -> Chooser:
    def choose(parameter: Parameter) -> Primitive:
        if parameter.name == "method":
            return method
        if parameter.choices:
            return family if family in parameter.choices else parameter.choices[0]
        at_high = parameter.name in _SLOTS and ends[_SLOTS[parameter.name]]
        return parameter.cast(parameter.high if at_high else parameter.low)

    return choose
