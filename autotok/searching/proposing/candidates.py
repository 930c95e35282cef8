"""Configurations that could be tried, with all that is known of them for nothing.

A candidate is a proposal with its exact cost and the patch tokens that each block sees; neither
needs a forward, so a surrogate can choose among thousands.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from autotok.config import Primitive
from autotok.errors import AutotokError
from autotok.facts import BackboneFacts, BlockFacts
from autotok.methods.base import TokenReducer
from autotok.searching.space.budget import Budget
from autotok.searching.space.parameters import Chooser, Parameter, Params
from autotok.searching.space.problem import ExactCosts, Problem
from autotok.searching.space.shape import Shape
from autotok.searching.space.subnets import PREFIX

from .repair import Strengths

SIZES = 4
"""Of a structure: see `structure_left`."""
BINS = 12
"""Depths at which the share of tokens left is read: as many as a ViT-S has blocks."""
_GRID = np.linspace(0.0, 1.0, 25)
"""Strengths at which a shape is priced, all at once: near enough to choose by, repair is exact."""
_FEW = _GRID[::6]
"""Of the grid, for what has to be counted one by one."""
_ANEW, _KEPT, _STEP = 0.25, 0.5, 0.1
"""Around a proposal: share of the answers drawn anew, of the other numbers kept as they are, and
the standard deviation of how far the rest moves, as a share of its range."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Priced:
    """A proposal, priced."""

    params: Params
    method: str
    macs: float
    """Over those of the uncompressed model."""
    profile: tuple[float, ...]
    """(`BINS`,) share of the patch tokens left, from the first block to the last."""
    steepest: float
    """Least share of the tokens that enter a reduction which it keeps."""
    entering: float = 0.0
    """Tokens that enter reductions, over the patches: what the method itself works on."""
    patches: float = 1.0
    """Of the image size, over those of the model's own."""
    backbone: str = ""
    """Of several; "" is the first, or the only one."""
    stopping: float = 0.0
    """See `Shape.stopping`."""
    structure: tuple[float, ...] = (1.0,) * SIZES
    """Depth, width, and the mean attention and MLP width of a block, over those of the model."""


def random_params(
    problem: Problem, rng: np.random.Generator, fixed: Mapping[str, Primitive] | None = None
) -> Params:
    """A proposal drawn evenly from the space, but for the answers that are `fixed`."""
    draw = _drawn(rng)
    given = fixed or {}

    def choose(parameter: Parameter) -> Primitive:
        return given[parameter.name] if parameter.name in given else draw(parameter)

    return problem.space.walk(choose, problem.facts)


def nearby(params: Mapping[str, Primitive], problem: Problem, rng: np.random.Generator) -> Params:
    """A proposal that answers about one question in four anew; of the others, half of the numbers
    are a little off those of `params`. Half of the proposals keep the whole structure: a supernet
    asks thirty questions about it, of which else hardly ever all were kept."""
    draw = _drawn(rng)
    keeps = problem.space.structure is not None and rng.random() < _KEPT

    def choose(parameter: Parameter) -> Primitive:
        if keeps and parameter.name in params and parameter.name.startswith(PREFIX):
            return params[parameter.name]
        if parameter.name not in params or rng.random() < _ANEW:
            return draw(parameter)
        answer = parameter.cast(params[parameter.name])
        if parameter.choices or rng.random() < _KEPT:
            return answer
        return _shifted(parameter, float(answer), _STEP * float(rng.standard_normal()))

    return problem.space.walk(choose, problem.facts)


def _shifted(parameter: Parameter, answer: float, step: float) -> Primitive:
    """The answer that is a `step` further, as a share of the range."""
    if parameter.log:
        return parameter.cast(answer * (parameter.high / parameter.low) ** step)
    return parameter.cast(answer + step * (parameter.high - parameter.low))


def priced_at(
    params: Params,
    fractions: Sequence[float],
    problem: Problem,
    whole: float,
    *,
    most: float = np.inf,
) -> list[Priced]:
    """One shape at several fractions of the way from its cheapest to the limit; none where it
    cannot meet the exact budgets within `most` multiply-accumulates. `whole` is the cost of the
    uncompressed model."""
    space, facts = problem.space, problem.facts
    try:
        shape = space.decode(params, facts)
    except AutotokError:  # a combination that the method refuses
        return []
    facts = problem.costs.facts(shape.subnet, shape.image_size, shape.backbone)
    line = Strengths(shape, problem)
    if shape.layers and shape.exits is None:
        counts, macs = _on_grid(shape, problem)
    else:
        counts = shape.counts(_GRID, problem.facts_of(shape.backbone))
        macs = line.metric("macs", _GRID)
    stopping = np.zeros(len(_GRID)) if shape.exits is None else shape.stopping(_GRID)
    inside = np.flatnonzero((macs <= most) & _within(line, macs, problem.budgets))
    if not len(inside):
        return []
    low, high = float(macs[inside].min()), float(macs[inside].max())
    found = []
    for fraction in fractions:
        target = low + fraction * (high - low)
        at = inside[int(np.argmin(np.abs(macs[inside] - target)))]
        priced = {**params, "budget_fraction": float(fraction)}
        cost, row = float(macs[at]) / whole, counts[at].tolist()
        one = priced_as(
            *(priced, shape.method, cost, shape.layers, row, facts),
            model=problem.facts_of(shape.backbone),
            stopping=float(stopping[at]),
        )
        found.append(one)
    return found


def priced_as(
    params: Mapping[str, Primitive],
    method: str,
    macs: float,
    layers: Sequence[int],
    counts: Sequence[int],
    facts: BackboneFacts,
    *,
    model: BackboneFacts | None = None,
    stopping: float = 0.0,
) -> Priced:
    """A configuration by its layers and counts. `facts` are those of its structure and image size,
    `model` those of the uncompressed model, the same unless given; `macs` are over its cost."""
    model = model or facts
    entering = [facts.num_patches, *counts][: len(counts)]
    return Priced(
        dict(params),
        method,
        macs,
        tokens_by_depth(layers, counts, facts),
        min((c / max(e, 1) for c, e in zip(counts, entering, strict=True)), default=1.0),
        sum(entering) / facts.num_patches,
        patches=facts.num_patches / model.num_patches,
        backbone=str(params.get("backbone", "")),
        stopping=stopping,
        structure=structure_left(facts, model),
    )


def structure_left(facts: BackboneFacts, model: BackboneFacts) -> tuple[float, ...]:
    """(`SIZES`,) depth, width, mean attention and MLP width of a block, over those of the model."""
    if facts.blocks == model.blocks:
        return (1.0,) * SIZES
    left, whole = _sizes(facts.blocks), _sizes(model.blocks)
    return tuple(one / other for one, other in zip(left, whole, strict=True))


def _sizes(blocks: Sequence[BlockFacts]) -> tuple[float, ...]:
    depth = len(blocks)
    sums = (sum(getattr(b, name) for b in blocks) for name in ("width", "inner_width", "hidden"))
    return (float(depth), *(total / depth for total in sums))


def _on_grid(shape: Shape, problem: Problem) -> tuple[NDArray[np.int64], Floats]:
    """(25, S) counts and (25,) multiply-accumulates of a shape at the strengths of the grid."""
    facts = problem.costs.facts(shape.subnet, shape.image_size, shape.backbone)
    return _at_each(shape.acting, shape.layers, shape.weights, shape.curve, facts)


@lru_cache(maxsize=1024)  # a limit on predictions asks first, and a resumed search once more
def _at_each(
    acting: tuple[type[TokenReducer], str],
    layers: tuple[int, ...],
    weights: tuple[float, ...],
    curve: str,
    facts: BackboneFacts,
) -> tuple[NDArray[np.int64], Floats]:
    """Of a shape on the facts that it means; only to be looked at."""
    name, options = json.loads(acting[1])
    counts = Shape(name, layers, weights, curve, options).counts(_GRID, facts)
    macs = ExactCosts(facts).schedule_macs(name, options, layers, counts).astype(np.float64)
    for values in (counts, macs):
        values.flags.writeable = False
    return counts, macs


def _within(line: Strengths, macs: Floats, budgets: Sequence[Budget]) -> NDArray[np.bool_]:
    """Which strengths of the grid meet the exact limits; `macs` are their costs."""
    inside = np.ones(len(_GRID), dtype=bool)
    for budget in budgets:
        if budget.metric == "macs":
            inside &= macs <= budget.limit
        elif budget.exact:  # not counted for many at once, and nearly straight
            inside &= np.interp(_GRID, _FEW, line.metric(budget.metric, _FEW)) <= budget.limit
    return inside


def tokens_by_depth(
    layers: Sequence[int], counts: Sequence[int], facts: BackboneFacts
) -> tuple[float, ...]:
    """(`BINS`,) share of the patch tokens left by depth, by layers and counts."""
    depth = facts.num_blocks
    left = np.ones(depth)
    for layer, count in zip(layers, counts, strict=True):
        left[layer:] = count / facts.num_patches
    if depth == BINS:
        return tuple(left.tolist())
    places = np.linspace(0.0, depth - 1, BINS)
    return tuple(np.interp(places, np.arange(depth), left).tolist())


def _drawn(rng: np.random.Generator) -> Chooser:
    def choose(parameter: Parameter) -> Primitive:
        if parameter.choices:
            if parameter.name == "mode" and "plug-in" in parameter.choices:
                return "plug-in"  # as trials are where both are searched
            return parameter.choices[int(rng.integers(len(parameter.choices)))]
        low, high = parameter.low, parameter.high
        if parameter.log:
            return parameter.cast(float(np.exp(rng.uniform(np.log(low), np.log(high)))))
        if parameter.integer:
            return int(rng.integers(int(low), int(high) + 1))
        return float(rng.uniform(low, high))

    return choose
