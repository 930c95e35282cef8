"""Where a search starts: every method's published default schedule, spread over the front."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from autotok.config import Subnet
from autotok.facts import BackboneFacts
from autotok.methods.base import Kind, Placement
from autotok.methods.published import published_schedules
from autotok.methods.registry import get_method

from .parameters import Params
from .search_space import SearchSpace
from .subnets import Subnets

Schedule = tuple[tuple[int, ...], tuple[float, ...]]
"""Layers, and the keep ratio after each."""


def warm_starts(space: SearchSpace, facts: BackboneFacts) -> list[Params]:
    """One proposal per method and published schedule, of each backbone in turn, no two alike.

    The first is at the limit of the budget, those after it halve the largest gaps between costs, so
    that however few are run, they reach from the limit to the cheapest (van der Corput's sequence).
    """
    found: list[Params] = []
    seen: list[Params] = []
    low, high = space.budget_fraction
    for method, name in itertools.product(space.candidates(facts), space.names()):
        own = space.facts_of(name, facts)
        if method == "none":
            if name:
                found.append(space.encode("none", (), (), facts, backbone=name))
            for subnet in _subnets(space.structure):
                found.append(space.encode("none", (), (), facts, subnet=subnet))
            for exits in space.exits_of("none") if space.exits else ():
                found.append(space.encode("none", (), (), facts, exits=exits))
            for side in space.image_sizes:
                params = space.encode("none", (), (), facts, image_size=side)
                found += [] if params in found else [params]
            continue
        for layers, ratios in _published(method, own) or [_default(method, own)]:
            params = space.encode(
                *(method, layers, ratios, facts), budget_fraction=high, backbone=name
            )
            if params not in seen:
                turn = len(seen)
                seen.append(params)
                fraction = high - _halved(turn) * (high - low)
                found.append({**params, "budget_fraction": fraction})
                if "number_format" in params:  # they take turns
                    able = space.formats_of(method)
                    found[-1]["number_format"] = able[turn % len(able)]
                if "image_size" in params:  # the largest first
                    sides = space.sides_of(method)[::-1]
                    found[-1]["image_size"] = sides[turn % len(sides)]
    return found


def _halved(number: int) -> float:
    """0, 1/2, 1/4, 3/4, 1/8 ...: the binary digits of a number behind the point, last one first."""
    return int(f"{number:b}"[::-1], 2) / 2 ** len(f"{number:b}") if number else 0.0


def _subnets(structure: Subnets | None) -> Iterator[Subnet]:
    """The default subnet, and the smallest: where a search of structure starts."""
    if structure is not None:
        yield structure.default
        yield structure.shrunk(structure.default)[-1]


def _default(method: str, facts: BackboneFacts) -> Schedule:
    """Where no paper says another: what methods of its kind do."""
    cls, depth = get_method(method), facts.num_blocks
    if cls.placement is Placement.BEFORE_BLOCKS or cls.single_layer or cls.kind is Kind.POOL:
        return (0 if cls.placement is Placement.BEFORE_BLOCKS else depth // 4,), (0.5,)
    if cls.kind is Kind.MERGE:
        return tuple(range(depth)), tuple(1.0 - 0.9 * (i + 1) / depth for i in range(depth))
    layers = tuple(dict.fromkeys(depth * i // 4 for i in (1, 2, 3)))
    # 0.7 of those there at a quarter, a half and three quarters: EViT's blocks 3, 6 and 9 of 12
    return layers, tuple(0.7 ** (i + 1) for i in range(len(layers)))


def _published(method: str, facts: BackboneFacts) -> list[Schedule]:
    """From the methods' own knowledge of their papers, where they state it."""
    total = facts.num_patches
    schedules = [s.reductions for s in published_schedules(method, facts.num_blocks, total)]
    return [
        (
            tuple(r.layer for r in reductions),
            tuple(r.num_keep / total if r.num_keep else r.keep_ratio or 1.0 for r in reductions),
        )
        for reductions in schedules
        if reductions
    ]
