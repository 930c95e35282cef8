"""Grid search over a space: five steps per range, every choice, in a seeded order."""

from __future__ import annotations

import numpy as np

from autotok.config import Primitive
from autotok.facts import BackboneFacts
from autotok.searching.space.search_space import Parameter, Params, SearchSpace

__all__ = ["grid_point"]

_GRID_STEPS = 5


def grid_point(
    space: SearchSpace, facts: BackboneFacts, number: int, *, seed: int, attempt: int
) -> Params:
    """Point `number` of the grid: a mixed-radix counter over the questions asked, offset by seed.

    Further attempts at the same number look far away in the same order.
    """
    offsets = np.random.default_rng([seed, 7]).integers(0, 2**31, size=64)
    digits, position = number + 9973 * attempt, 0

    def choose(parameter: Parameter) -> Primitive:
        nonlocal digits, position
        answers = _grid_answers(parameter)
        index = (digits + int(offsets[position % 64])) % len(answers)
        digits, position = digits // len(answers), position + 1
        return answers[index]

    return space.walk(choose, facts)


def _grid_answers(parameter: Parameter) -> list[Primitive]:
    if parameter.choices:
        return list(parameter.choices)
    if parameter.integer:
        return list(range(int(parameter.low), int(parameter.high) + 1))
    if parameter.log:
        return [float(v) for v in np.geomspace(parameter.low, parameter.high, _GRID_STEPS)]
    return [float(v) for v in np.linspace(parameter.low, parameter.high, _GRID_STEPS)]
