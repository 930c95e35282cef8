"""The controls: what any method has to beat at the same cost.

Random pruning in several shapes, and the uncompressed model on smaller images, which is the
simplest way of all to have fewer tokens.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator

from autotok.config import CompressionConfig
from autotok.methods.registry import get_method, list_methods
from autotok.searching.proposing.repair import Repaired, match_cost
from autotok.searching.records.record import TrialRecord
from autotok.searching.space.budget import worst_excess
from autotok.searching.space.problem import COUNTED_IMAGES
from autotok.searching.space.shape import Shape

from .loop import Search

CONTROL = "random"
SMALLER = "smaller image"
"""Origin of the record of that control."""
LEFT_OUT = "controls were left out (control_shapes: 0)"


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
    facts = problem.facts_of(best.backbone) if structure is None else structure.facts(subnet)
    facts = facts.at_size(side)
    stops = best.config.exits is not None
    if not (best.layers or stops) and structure is None and best.config.image_size is None:
        return []
    depth = facts.num_blocks
    stages = tuple(dict.fromkeys(depth * i // 4 for i in (1, 2, 3)))
    steps = tuple((i + 1) / len(stages) for i in range(len(stages)))
    rising = tuple((i + 1) / depth for i in range(depth))
    layouts = [
        (stages, steps, "geometric"),
        (tuple(range(depth)), rising, "linear"),
        ((max(0, depth // 6),), (1.0,), "geometric"),
    ]
    if best.layers:
        gone = [1.0 - count / facts.num_patches for count in best.counts]
        layouts.insert(0, (best.layers, tuple(g / gone[-1] for g in gone), "linear"))
    return [
        Shape(
            *(CONTROL, *layout),
            options=dict(sorted(get_method(CONTROL).resolve_options({}).items())),
            subnet=subnet,
            number_format=best.config.number_format,
            image_size=side,
            backbone=best.backbone,
        )
        for layout in layouts
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


def no_random_pruning(search: Search, best: TrialRecord) -> str:
    """Why there is no random pruning at the cost of the best, where `controls_at_cost` gives
    none."""
    if not search.settings.controls:
        return LEFT_OUT
    if CONTROL not in list_methods():
        return f"method '{CONTROL}' is not here"
    if best.costs is None or best.config is None:
        return "the best has no exact cost"
    if not control_shapes(search, best):
        return "the best itself is the uncompressed model"
    return "it cannot be as cheap as the best, inside every budget"


def retrained_like(record: TrialRecord, best: TrialRecord) -> TrialRecord:
    """The control, to be fine-tuned in the way that the best was."""
    assert record.config is not None
    assert best.config is not None
    config = dataclasses.replace(record.config, mode="retrain", finetune=best.config.finetune)
    return dataclasses.replace(record, config=config)


def smaller_image(search: Search, best: TrialRecord) -> Repaired | str:
    """The uncompressed model at the image size whose cost comes nearest below that of the best, or
    equals it, inside every budget; or in words why there is none."""
    problem = search.problem
    if not search.settings.controls:
        return LEFT_OUT
    facts = problem.facts_of(best.backbone)
    step = facts.side_step
    if best.config is None or best.costs is None:
        return "the best has no exact cost"
    if problem.metric == "feature":
        return "quality 'feature' is compared patch by patch, and smaller images have other patches"
    if facts.one_size:
        return f"backbone '{facts.name}' keeps its image size, because {facts.one_size}"
    if best.config.subnet is None and best.config.exits is None and not best.layers:
        return "the best itself is the uncompressed model"
    most = max(facts.image_shape[1:])
    for side in range((most - 1) // step * step, 0, -step):
        config = CompressionConfig(
            number_format=best.config.number_format, image_size=side, backbone=best.backbone
        )
        costs = problem.costs.cost(config)
        if costs.macs > best.costs.macs:
            continue
        predicted = {} if problem.predict is None else dict(problem.predict(config))
        found = Repaired(config, costs=costs, predicted=predicted)
        over = worst_excess(problem.budgets, found.values)
        if over <= 0.0:
            return dataclasses.replace(found, violation=over)
    return (
        f"even images of {step} pixels a side, one patch, are over the best's cost or outside the"
        " budget"
    )


def control_record(number: int, repaired: Repaired, origin: str) -> TrialRecord:
    """A record, to be judged, of a control or of the uncompressed model."""
    return TrialRecord(
        number=number,
        state="running",
        config=repaired.config,
        layers=repaired.layers,
        counts=repaired.counts,
        costs=repaired.costs,
        predicted=repaired.predicted,
        feasible=repaired.violation <= 0.0,
        violation=repaired.violation,
        origin=origin,
    )


def expected_count(record: TrialRecord) -> float:
    """What the independent counter should find."""
    each = (record.tally or {}).get("macs") or ()
    assert record.costs is not None
    return statistics.fmean(each[:COUNTED_IMAGES]) if each else float(record.costs.macs)
