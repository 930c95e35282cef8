"""How a run opens its study: under which name, whose, and what config.yaml says of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from autotok.plain_data import Place, typed
from autotok.searching.proposing.identity import STUDY_NAME, StudyIdentity, check_study
from autotok.searching.proposing.proposals import Proposals
from autotok.searching.proposing.storage import masked, open_storage, storage_errors
from autotok.searching.records.objective import make_objectives
from autotok.searching.records.rundir import RunDirectory
from autotok.searching.space.budget import Budget
from autotok.searching.space.problem import Problem
from autotok.searching.space.settings import SearchSettings

from .device_corrections import DeviceCorrections

__all__ = [
    "check_free",
    "identity_of",
    "named_study",
    "open_proposals",
    "search_section",
    "stated_limits",
]


def named_study(settings: SearchSettings, run: RunDirectory, run_id: str) -> SearchSettings:
    """The settings with the study's name: in a database one that no other run has."""
    if settings.study is not None:
        return settings
    name = STUDY_NAME if settings.storage is None else f"{run.path.name}-{run_id}"[-200:]
    return dataclasses.replace(settings, study=name)


def identity_of(
    settings: SearchSettings, corrections: DeviceCorrections, run_id: str, access: str
) -> StudyIdentity:
    return StudyIdentity(
        settings.study or STUDY_NAME, run_id, corrections.original.fingerprint, access
    )


def check_free(settings: SearchSettings, problem: Problem, identity: StudyIdentity) -> None:
    """Refuse a study that may not be opened, before anything is written."""
    if settings.storage is None:
        return
    with storage_errors(settings.storage):
        objectives = make_objectives(settings.objectives, problem.metric)
        check_study(open_storage(settings.storage), identity, objectives)


def stated_limits(run: RunDirectory, problem: Problem) -> tuple[Budget, ...] | None:
    """The budgets with the shares of a prediction as config.yaml states them.

    None where an earlier version wrote it, or it is about others: then the study's identity tells.
    """
    place, items = Place(str(run.path / "config.yaml")) / "limits", run.read_config().get("limits")
    if items is None:
        return None
    limits = tuple(typed(Budget, item, place) for item in _listed(items))
    if [(b.metric, b.text) for b in limits] != [(b.metric, b.text) for b in problem.budgets]:
        return None
    both = zip(limits, problem.budgets, strict=True)
    return tuple(a if b.relative and not b.exact else b for a, b in both)


def _listed(items: object) -> list[object]:
    return items if isinstance(items, list) else [items]


def search_section(settings: SearchSettings) -> dict[str, Any]:
    """Of config.yaml: no password in it."""
    data = settings.to_dict()
    if settings.storage is not None:
        data["storage"] = masked(settings.storage)
    return data


def open_proposals(
    settings: SearchSettings, problem: Problem, storage: str | Path, identity: StudyIdentity
) -> Proposals:
    objectives = make_objectives(settings.objectives, problem.metric)
    return Proposals(
        problem.space,
        problem.facts,
        objectives,
        storage=settings.storage or storage,
        sampler=settings.sampler,
        seed=settings.seed,
        identity=identity,
    )
