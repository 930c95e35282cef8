"""The random control, in several shapes: what any method has to beat at the same cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from autotok.methods.registry import list_methods
from autotok.searching.proposing.repair import Repaired, match_cost
from autotok.searching.records.record import TrialRecord
from autotok.searching.space.shape import Shape

from .loop import Search

CONTROL = "random"


def control_shapes(search: Search, best: TrialRecord) -> list[Shape]:
    """Shapes for random pruning on the best's subnet and image size: its own, three stages, one
    early, every layer. A best that takes no tokens away is met by random pruning of the default
    subnet at the model's own size."""
    problem = search.problem
    if CONTROL not in list_methods() or best.config is None:
        return []
    structure = problem.space.structure
    subnet = best.config.subnet if best.layers else None
    side = best.config.image_size if best.layers else None
    facts = problem.facts if structure is None else structure.facts(subnet)
    facts = facts.at_size(side)
    if not best.layers and structure is None and best.config.image_size is None:
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
    like = Shape(
        *(CONTROL, (), ()),
        options=options,
        subnet=subnet,
        number_format=best.config.number_format,
        image_size=side,
    )
    return [
        dataclasses.replace(like, layers=s.layers, weights=s.weights, curve=s.curve) for s in shapes
    ]


def controls_at_cost(search: Search, best: TrialRecord) -> Iterator[Repaired]:
    """Random pruning at the cost of the best, each configuration once."""
    seen: set[str] = set()
    for shape in () if best.costs is None else control_shapes(search, best):
        assert best.costs is not None
        repaired = match_cost(shape, best.costs.macs, search.problem)
        if repaired is None or repaired.config is None or repaired.config.config_id in seen:
            continue
        seen.add(repaired.config.config_id)
        yield repaired


def retrained_like(record: TrialRecord, best: TrialRecord) -> TrialRecord:
    """The control, to be fine-tuned in the way that the best was."""
    assert record.config is not None
    assert best.config is not None
    config = dataclasses.replace(record.config, mode="retrain", finetune=best.config.finetune)
    return dataclasses.replace(record, config=config)
