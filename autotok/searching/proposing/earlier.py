"""What an earlier run of the same model and images is worth to a new one.

Its front is tried first, each configuration at the cost it had, or the limit where that is less; a
surrogate learns from everything it evaluated. The earlier budget does not matter: quality depends
on the configuration alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from autotok.errors import AutotokError
from autotok.searching.records.objective import Objective, losses
from autotok.searching.records.pareto import Front, thin
from autotok.searching.records.record import TrialRecord
from autotok.searching.space.parameters import Params
from autotok.searching.space.problem import Problem

from .candidates import priced_at

MOST_KEPT = 200
"""Records of an earlier run: more than a surrogate looks at."""
_STARTS = 8
_FRACTIONS = np.linspace(0.0, 1.0, 41)


def worth_keeping(
    records: Sequence[TrialRecord], objectives: Sequence[Objective], metric: str
) -> list[TrialRecord]:
    """Plug-in configurations judged by the same metric, at most `MOST_KEPT`, the latest ones."""
    names = {o.name for o in objectives}
    plain = [
        dataclasses.replace(r, tally=None, untuned=None)
        for r in records
        if r.score is not None
        and r.score.metric == metric
        and r.config is not None
        and r.config.mode == "plug-in"
        and names <= r.values.keys()
    ]
    return plain[-MOST_KEPT:]


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
