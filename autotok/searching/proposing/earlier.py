"""What an earlier run of the same model and images is worth to a new one.

Its front is tried first, each configuration at the cost it had, or the limit where that is less; a
surrogate learns from everything it evaluated. The earlier budget does not matter: quality depends
on the configuration alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from autotok.config import CompressionConfig
from autotok.errors import AutotokError
from autotok.searching.records.objective import Objective, losses
from autotok.searching.records.pareto import Front, thin
from autotok.searching.records.record import TrialRecord
from autotok.searching.space.parameters import Params
from autotok.searching.space.problem import Problem
from autotok.searching.space.search_space import SearchSpace

from .candidates import priced_at

MOST_KEPT = 200
"""Records of an earlier run: more than a surrogate looks at."""
_PREDICTED_ANEW = 60
"""Of these, where the device is another one: each takes a trace of the model."""
_STARTS = 8
_FRACTIONS = np.linspace(0.0, 1.0, 41)


def worth_keeping(
    records: Sequence[TrialRecord], objectives: Sequence[Objective], problem: Problem
) -> list[TrialRecord]:
    """Plug-in configurations of the problem's space judged by its metric, at most `MOST_KEPT`, the
    latest ones; where some lack an objective, fewer, with what the problem predicts."""
    names = {o.name for o in objectives}
    found = [
        dataclasses.replace(r, tally=None, untuned=None)
        for r in records
        if r.score is not None
        and r.score.metric == problem.metric
        and r.config is not None
        and r.config.mode == "plug-in"
        and _may_be(r.config, problem.space)
    ][-MOST_KEPT:]
    if problem.predict is not None and any(not names <= r.values.keys() for r in found):
        found = [
            dataclasses.replace(r, predicted=dict(problem.predict(r.config)), reading=None)
            for r in found[-_PREDICTED_ANEW:]
            if r.config is not None
        ]
    return [r for r in found if names <= r.values.keys()]


def without_device(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The records without what was predicted or measured: their device is not the one asked for."""
    return [dataclasses.replace(r, predicted={}, reading=None) for r in records]


def _may_be(config: CompressionConfig, space: SearchSpace) -> bool:
    """Whether a space asks for what tells this configuration from others: of what it does not ask
    for, a surrogate sees nothing, and costs cannot be had."""
    return (
        config.backbone in space.names()
        and (config.subnet is None or space.structure is not None)
        and (config.image_size is None or config.image_size in space.image_sizes)
        and (config.exits is None or bool(space.exits))
        and config.number_format in space.number_formats
    )


def front_again(
    records: Sequence[TrialRecord], problem: Problem, objectives: Sequence[Objective]
) -> list[Params]:
    """Proposals that mean the front of earlier records, cheapest first, thinned to a few."""
    front = [r for r in Front(objectives, records).records if r.params and r.layers]
    if not front:
        return []
    points = losses([r.values for r in front], objectives)
    whole = float(problem.costs.cost(problem.whole).macs)
    found = []
    for record in [front[i] for i in thin(points, _STARTS)]:
        params = _in_space(record, problem)
        priced = [] if params is None else priced_at(params, _FRACTIONS.tolist(), problem, whole)
        if priced and record.costs is not None:
            wanted = record.costs.macs / whole
            found.append(min(priced, key=lambda candidate: abs(candidate.macs - wanted)).params)
    return found


def _in_space(record: TrialRecord, problem: Problem) -> Params | None:
    """The answers of a record as this space asks; None where it does not know the method."""
    if record.params.get("method") not in problem.space.candidates(problem.facts):
        return None
    try:
        return problem.space.walk(
            lambda parameter: parameter.cast(record.params.get(parameter.name, parameter.low)),
            problem.facts,
        )
    except AutotokError:
        return None
