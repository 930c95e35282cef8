"""Whether a space can meet its budgets at all, and whether they limit anything: before a search."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

from autotok.config import CompressionConfig, Primitive
from autotok.errors import InfeasibleBudget
from autotok.metrics import METRICS, Metric
from autotok.searching.space.budget import Budget
from autotok.searching.space.parameters import Chooser, Condition, Parameter
from autotok.searching.space.problem import Problem

from .repair import Strengths


def check_budgets(problem: Problem) -> None:
    """Raise `InfeasibleBudget` if nothing in the space meets the budgets.

    The message names the nearest feasible one: the cheapest over all methods and extreme shapes,
    and the uncompressed model, than which a method may be slower.
    """
    named = itertools.product(problem.space.candidates(problem.facts), problem.space.names())
    lines = {
        f"{method} on {name}" if name else method: list(_corners(problem, method, backbone=name))
        for method, name in named
    }
    for budget in problem.budgets:
        lowest = {m: _lowest(corners, budget) for m, corners in lines.items()}
        lowest |= _uncompressed(problem, budget)
        method = min(lowest, key=lambda m: (budget.excess(lowest[m]), m))
        if not budget.holds(lowest[method]):
            raise InfeasibleBudget(_sorry(budget, lowest[method], method))


def idle_budgets(problem: Problem) -> tuple[str, ...]:
    """A sentence on every budget that the uncompressed model keeps: it limits nothing.

    Where subnets are searched too, the largest of them may cost more: nothing is said.
    """
    if problem.space.structure is not None:
        return ()
    every = {b: _uncompressed(problem, b).values() for b in problem.budgets}
    dearest = {b: max(costs, key=b.excess) for b, costs in every.items() if costs}
    return tuple(
        f"budget {b.text} limits nothing: the uncompressed model"
        f" {_cost_of(METRICS[b.metric], cost)} to have it compressed"
        for b, cost in dearest.items()
        if b.holds(cost)
    )


def _cost_of(metric: Metric, value: float) -> str:
    words = metric.in_words(value)
    if metric.higher_is_better:
        return f"reaches {words}; give a larger one"
    return f"costs {words}; give a smaller one"


def _uncompressed(problem: Problem, budget: Budget) -> dict[str, float]:
    """What every backbone as it is costs in the budget's metric, where that is known, by name."""
    found = {}
    for name in problem.space.names():
        whole = CompressionConfig(backbone=name)
        known = dataclasses.asdict(problem.costs.cost(whole))
        if problem.predict is not None and not budget.exact:
            known |= problem.predict(whole)
        if budget.metric in known:
            found[f"none on {name}" if name else "none"] = float(known[budget.metric])
    return found


def within_sizes(problem: Problem) -> Problem:
    """The problem with, for every method, those image sizes of its space at which the method's
    cheapest shape is within the exact limits; a method without any is left out.

    Where no method has one the space stays as it is: `check_budgets` says how much is missing.

    Raises:
        ConfigError: the backbone does not take images of one of the sizes.
    """
    space, limits = problem.space, [b for b in problem.budgets if b.exact]
    for side in space.image_sizes:
        problem.facts.at_size(side)
    if not space.image_sizes:
        return problem
    fitting = {
        method: tuple(
            side
            for side in space.sides_of(method)
            if any(
                all(line.lowest(b.metric) <= b.limit for b in limits)
                for line in _corners(problem, method, side)
            )
        )
        for method in space.candidates(problem.facts)
    }
    if not any(fitting.values()):
        return problem
    less = {m: sides for m, sides in fitting.items() if sides and sides != space.sides_of(m)}
    further = tuple(Condition({"method": (m,)}, {"image_size": s}) for m, s in less.items())
    without = tuple(m for m, sides in fitting.items() if not sides)
    space = dataclasses.replace(
        space, conditions=(*space.conditions, *further), exclude=(*space.exclude, *without)
    )
    return dataclasses.replace(problem, space=space)


def _sorry(budget: Budget, lowest: float, method: str) -> str:
    metric = METRICS[budget.metric]
    words, short = metric.in_words(lowest), metric.nearest_budget(lowest)
    best, reached, way = "cheapest", f"needs {words}", "more"
    if metric.higher_is_better:
        best, reached, way = "fastest", f"reaches {words} at most", "less"
    return (
        f"budget {budget.echo}, cannot be met: the {best} configuration of the space ({method})"
        f" {reached}; ask for {short} or {way}, or widen the space"
    )


def _lowest(corners: Sequence[Strengths], budget: Budget) -> float:
    """What a method reaches; predicted for its cheapest corner alone, for that costs a trace."""
    if budget.exact:
        return min(corner.lowest(budget.metric) for corner in corners)
    return min(corners, key=lambda corner: corner.lowest("macs")).lowest(budget.metric)


def _corners(
    problem: Problem, method: str, side: int | None = None, *, backbone: str = ""
) -> Iterator[Strengths]:
    """Shapes at the ends of every schedule range, at one image size or the smallest; options stay
    at their first answer."""
    seen, walked = set[str](), list[tuple[str, dict[int, bool]]]()
    corners = itertools.product((False, True), repeat=4)
    for family, ends in itertools.product(problem.space.families, corners):
        if any(f == family and all(ends[i] == end for i, end in a.items()) for f, a in walked):
            continue  # no end was asked for that differs here
        asked: dict[int, bool] = {}
        walked.append((family, asked))
        corner = _at_corner(method, family, ends, backbone, asked)
        params = problem.space.walk(corner, problem.facts)
        params |= {} if side is None else {"image_size": side}
        shape = problem.space.decode(params, problem.facts)
        key = repr((shape.layers, shape.weights, shape.curve))
        if key not in seen:
            seen.add(key)
            yield Strengths(shape, problem)


_SLOTS = {"first_layer": 0, "num_stages": 1, "spacing": 2, "taper": 3, "inflection": 3}


def _at_corner(
    method: str, family: str, ends: tuple[bool, ...], backbone: str, asked: dict[int, bool]
) -> Chooser:
    """Answers a walk; of `ends`, those that it asks for come into `asked`."""

    def choose(parameter: Parameter) -> Primitive:
        if parameter.name == "method":
            return method
        if parameter.name == "backbone":
            return backbone
        if parameter.choices:
            return family if family in parameter.choices else parameter.choices[0]
        slot = _SLOTS.get(parameter.name)
        at_high = slot is not None and asked.setdefault(slot, ends[slot])
        return parameter.cast(parameter.high if at_high else parameter.low)

    return choose
