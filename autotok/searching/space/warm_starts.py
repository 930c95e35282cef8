"""Where a search starts: every method's published default schedule, as proposals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from autotok.config import SubnetSpec
from autotok.facts import BackboneFacts
from autotok.methods.base import Kind, Placement
from autotok.methods.published import published_schedules
from autotok.methods.registry import get_method

from .search_space import Params, SearchSpace
from .subnets import Structure

__all__ = ["warm_starts"]


@dataclass(frozen=True)
class _Default:
    layers: tuple[int, ...]
    ratios: tuple[float, ...]


def warm_starts(space: SearchSpace, facts: BackboneFacts) -> list[Params]:
    """One proposal per method and published schedule, at the limit of the budget, no two alike."""
    found: list[Params] = []
    for method in space.candidates(facts):
        if method == "none":
            for subnet in _subnets(space.structure):
                found.append(space.encode("none", (), (), facts, subnet=subnet))
            continue
        for default in _defaults(method, facts):
            params = space.encode(
                method,
                default.layers,
                default.ratios,
                facts,
                budget_fraction=space.budget_fraction[1],
            )
            if params not in found:
                found.append(params)
    return found


def _subnets(structure: Structure | None) -> Iterator[SubnetSpec]:
    """The default subnet, and the smallest: where a search of structure starts."""
    if structure is not None:
        yield structure.default
        yield structure.shrunk(structure.default)[-1]


def _defaults(method: str, facts: BackboneFacts) -> Iterator[_Default]:
    published = list(_published(method, facts))
    yield from published
    if published:
        return
    cls, depth = get_method(method), facts.num_blocks
    if cls.placement is Placement.BEFORE_BLOCKS or cls.single_layer or cls.kind is Kind.POOL:
        layer = 0 if cls.placement is Placement.BEFORE_BLOCKS else depth // 4
        yield _Default((layer,), (0.5,))
    elif cls.kind is Kind.MERGE:
        yield _Default(
            tuple(range(depth)), tuple(1.0 - 0.9 * (i + 1) / depth for i in range(depth))
        )
    else:
        layers = tuple(dict.fromkeys(depth * i // 4 for i in (1, 2, 3)))
        yield _Default(layers, tuple(0.7 ** (i + 1) for i in range(len(layers))))


def _published(method: str, facts: BackboneFacts) -> Iterator[_Default]:
    """From the methods' own knowledge of their papers, where they state it."""
    total = facts.num_patches
    for schedule in published_schedules(method, facts.num_blocks, total):
        kept = [
            r.num_keep / total if r.num_keep else r.keep_ratio or 1.0 for r in schedule.reductions
        ]
        if kept:
            yield _Default(tuple(r.layer for r in schedule.reductions), tuple(kept))
