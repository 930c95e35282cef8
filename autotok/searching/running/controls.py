"""Shapes of the random control: what any method has to beat at the same cost."""

from __future__ import annotations

import dataclasses

from autotok.methods.registry import list_methods
from autotok.searching.records.record import TrialRecord
from autotok.searching.space.shape import Shape

from .loop import Search

CONTROL = "random"


def control_shapes(search: Search, best: TrialRecord) -> list[Shape]:
    """Shapes for random pruning on the best's subnet: its own, three stages, one early, every
    layer. A best that takes no tokens away is met by random pruning of the default subnet."""
    problem = search.problem
    if CONTROL not in list_methods() or best.config is None:
        return []
    structure = problem.space.structure
    subnet = best.config.subnet if best.layers else None
    facts = problem.facts if structure is None else structure.facts(subnet)
    if not best.layers and structure is None:
        return []
    depth = facts.num_blocks
    stages = tuple(dict.fromkeys(depth * i // 4 for i in (1, 2, 3)))
    steps = tuple((i + 1) / len(stages) for i in range(len(stages)))
    rising = tuple((i + 1) / depth for i in range(depth))
    shapes = [
        Shape(CONTROL, stages, steps),
        Shape(CONTROL, tuple(range(depth)), rising, "linear"),
        Shape(CONTROL, (max(0, depth // 6),), (1.0,)),
    ]
    if best.layers:
        gone = [1.0 - count / facts.num_patches for count in best.counts]
        own = Shape(CONTROL, best.layers, tuple(g / gone[-1] for g in gone), "linear")
        shapes.insert(0, own)
    options = dict(sorted(shapes[0].reducer.resolve_options({}).items()))
    return [dataclasses.replace(shape, options=options, subnet=subnet) for shape in shapes]
