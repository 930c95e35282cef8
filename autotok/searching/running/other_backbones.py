"""Several backbones in one search: what the final evaluation adds, so that each is a control of the
others. With one backbone there is its uncompressed model, and nothing else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

from autotok.searching.records.pareto import best_of
from autotok.searching.records.record import TrialRecord
from autotok.searching.space.problem import early_score

from .controls import control_record
from .loop import REFERENCE, Search

_FURTHER = -1000
"""Numbers from here down are the further uncompressed models', below all controls'."""


def uncompressed_models(search: Search) -> list[tuple[str, TrialRecord]]:
    """(key among the study's notes, record to be judged) of every backbone as it is."""
    found = []
    for place, name in enumerate(search.problem.space.names()):
        number = REFERENCE if not place else _FURTHER - place
        record = control_record(number, search.builder.uncompressed(name), "reference")
        record = search.corrections.known(record)
        assert record.config is not None
        trial = search.builder.known.get(record.config.config_id)
        seen = search.tallies.get(number)
        if place and trial is not None and trial.score is not None:
            record = dataclasses.replace(record, score=trial.score, tally=trial.tally)
        else:
            record = dataclasses.replace(record, score=early_score(seen))
        found.append((f"reference:{name}" if place else "reference", record))
    return found


def left_out(
    search: Search, chosen: Sequence[TrialRecord], without: Collection[int] = ()
) -> list[TrialRecord]:
    """The best trial, of all but `without`, of every backbone that has none among the finalists."""
    if not search.problem.space.backbones:
        return []
    absent = [n for n in search.problem.space.names() if all(r.backbone != n for r in chosen)]
    pool = [r for r in search.candidates if r.number not in without]
    found = [best_of([r for r in pool if r.backbone == n], search.objectives) for n in absent]
    return [record for record in found if record is not None]


def by_best_backbone(
    uncompressed: Sequence[TrialRecord], best: TrialRecord | None
) -> list[TrialRecord]:
    """The uncompressed models, the one of the best's backbone first."""
    return sorted(uncompressed, key=lambda r: best is not None and r.backbone != best.backbone)


def best_elsewhere(
    search: Search,
    chosen: Sequence[TrialRecord],
    front: Sequence[TrialRecord],
    best: TrialRecord | None,
) -> list[TrialRecord]:
    """The best finalist of every backbone but that of the best, where it is not on the front."""
    if best is None:
        return []
    found = []
    for name in search.problem.space.names():
        own = [r for r in chosen if r.backbone == name and r.within_budget and r.measured]
        record = best_of(own, search.objectives)
        on_front = record is not None and any(r.number == record.number for r in front)
        if record is not None and name != best.backbone and not on_front:
            found.append(record)
    return found
