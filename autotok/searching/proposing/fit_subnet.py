"""A smaller subnet where fewer tokens alone cannot meet the budget."""

from __future__ import annotations

import bisect
import dataclasses

import numpy as np

from autotok.searching.space.budget import Budget
from autotok.searching.space.problem import Problem
from autotok.searching.space.shape import Shape
from autotok.searching.space.subnets import Structure

from .strengths import Repaired, Strengths, verdict

__all__ = ["with_fitting_subnet"]


def with_fitting_subnet(
    shape: Shape, fraction: float, problem: Problem, structure: Structure
) -> Shape | Repaired:
    """The shape on the largest subnet, from the proposed one downwards, that the budgets allow."""
    path = [
        dataclasses.replace(shape, subnet=structure.canonical(subnet))
        for subnet in structure.shrunk(shape.subnet or structure.default)
    ]
    lines = [Strengths(_within_depth(s, structure), problem.facts, problem.costs) for s in path]
    limits = {b.metric: b.limit for b in problem.budgets if b.exact}
    strongest = np.ones(1)

    def fits(line: Strengths) -> bool:
        return all(float(line.metric(n, strongest)[0]) <= limit for n, limit in limits.items())

    first = bisect.bisect_left(lines, True, key=fits)
    if first == len(lines):
        exact = [b for b in problem.budgets if b.exact]
        return verdict(lines[-1], max(exact, key=lambda b: _share(lines[-1], b)))
    if not shape.layers and fraction < 1.0:
        ends = [float(lines[i].metric("macs", strongest)[0]) for i in (-1, first)]
        target = ends[0] + fraction * (ends[1] - ends[0])
        left = lines[first:]
        first += bisect.bisect_left(
            left, True, key=lambda line: float(line.metric("macs", strongest)[0]) <= target
        )
    return lines[min(first, len(lines) - 1)].shape


def _share(line: Strengths, budget: Budget) -> float:
    return float(line.metric(budget.metric, np.ones(1))[0]) / budget.limit


def _within_depth(shape: Shape, structure: Structure) -> Shape:
    """The shape without reduction layers that a shallower subnet does not have."""
    depth = structure.facts(shape.subnet).num_blocks
    if not shape.layers or shape.layers[-1] < depth:
        return shape
    count = sum(layer < depth for layer in shape.layers)
    weights = shape.weights[:count]
    if not count or weights[-1] <= 0.0:
        return dataclasses.replace(shape, layers=(), weights=())
    total = weights[-1]
    return dataclasses.replace(
        shape, layers=shape.layers[:count], weights=tuple(w / total for w in weights)
    )
