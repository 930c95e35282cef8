"""How a study is opened: by `run_search` anew, by `resume_search` again, by `open_search` alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autotok.documents import Place
from autotok.errors import RunDirectoryError, StudyTaken
from autotok.plain_data import typed
from autotok.searching.engines.base import Engine
from autotok.searching.proposing.feasible import check_budgets
from autotok.searching.proposing.identity import STUDY_NAME, StudyIdentity, check_study, new_id
from autotok.searching.proposing.proposals import Proposals, record_of
from autotok.searching.proposing.storage import (
    KeptStudy,
    check_storage,
    kept_study,
    masked,
    open_storage,
    storage_errors,
)
from autotok.searching.records.objective import make_objectives
from autotok.searching.records.record import TrialRecord
from autotok.searching.records.rundir import RunDirectory
from autotok.searching.space.budget import Budget, stated
from autotok.searching.space.problem import Problem
from autotok.searching.space.settings import FidelityPlan, SearchSettings, fidelity_plan

from .device_corrections import DeviceCorrections
from .events import OnEvent
from .faults import crashed_before
from .loop import Search
from .search_result import SearchResult, result_key
from .study import StudyRun
from .time_limit import Around


def run_search(
    settings: SearchSettings,
    problem: Problem,
    directory: str | Path | RunDirectory,
    on_event: OnEvent | None = None,
    *,
    sections: Mapping[str, Any] | None = None,
    engine: Engine | None = None,
    around: Around | None = None,
    earlier: Sequence[TrialRecord] = (),
) -> SearchResult:
    """A whole search in a new run directory.

    `sections` are further parts of config.yaml: what the caller needs to build the problem again.
    `earlier` are trials of other runs of the same model and images, to start from.
    `around` is what the time limit covers besides the search itself.

    Raises:
        InfeasibleBudget: nothing in the space meets the budgets; the nearest feasible one is named.
        NothingEvaluated: no trial came to an end; the message says what was missing.
        RunDirectoryError: the directory holds something already or cannot be written.
        StudyTaken: the study named exists already, or may not be joined.
        StorageUnreachable: the study's database does not answer.
        DeviceUnreachable: the device to measure on is gone; `resume_search` goes on from there.
        KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP (`Interrupted`): the first one after the trial
            in hand, the second at once; what is finished is saved, `resume_search` goes on there.
    """
    around = around or Around()
    run = directory if isinstance(directory, RunDirectory) else RunDirectory.create(directory)
    corrections = DeviceCorrections(problem, on_event)
    run_id = new_id()
    with run.held():
        try:
            check_storage(settings.storage)
            corrections.learn_early()
            corrections.insist_on(settings.objectives)
            check_budgets(corrections.problem)
            settings = _named(settings, run, run_id)
            access = "join" if settings.join else "new"
            identity = StudyIdentity(
                settings.study or STUDY_NAME, run_id, problem.fingerprint, access
            )
            _check_free(settings, problem, identity)
            config = {
                "run_id": run_id,
                "search": _search_section(settings),
                **stated(corrections.problem.budgets),
                "space": problem.space.name,
                **(sections or {}),
            }
            run.write_config(config)
            job = StudyRun(settings, corrections, run, on_event, engine, around, identity, earlier)
            if settings.join:
                job.extend()
            joined = stated(job.problem.budgets)  # what the study measured counts, not what we did
            if any(config[key] != value for key, value in joined.items()):
                run.write_config({**config, **joined})
        except StudyTaken:
            run.discard(config=True)
            raise
        except BaseException:
            run.discard()
            raise
        return job.go(resumed=settings.join, extended=settings.join)


def resume_search(
    problem: Problem,
    directory: str | Path,
    on_event: OnEvent | None = None,
    *,
    n_trials: int | None = None,
    timeout_s: float | None = None,
    storage: str | None = None,
    sampler: object = None,
    sections: Mapping[str, Any] | None = None,
    engine: Engine | None = None,
    around: Around | None = None,
) -> SearchResult:
    """Go on with a run: finished trials stay, interrupted ones run again.

    `n_trials` and `timeout_s` replace the run's own, to extend it; the time spent so far counts,
    and a `timeout_s` of 0 is no limit.
    `storage` says where the study is now, or gives the password of its URL, which no file keeps.
    `sampler` is the one that the run began with, where that was a Python object.
    `sections` replace parts of its config.yaml, for the resumes to come.
    """
    around = around or Around()
    run = RunDirectory.open(directory)
    run.claim()
    with run.held():
        config = run.read_config()
        settings = SearchSettings.from_dict(config.get("search") or {})
        extended = n_trials is not None or timeout_s is not None
        limits = {"n_trials": n_trials, "timeout_s": timeout_s}
        given = {**limits, "storage": storage, "sampler": sampler}
        before, settings = settings, settings.changed(given)
        if "run_id" not in config:  # of an earlier version
            config["run_id"] = new_id()
            run.write_config(config)
        said = {**config, **(sections or {})}
        said |= {"search": _search_section(settings)} if settings != before else {}
        corrections = DeviceCorrections(problem, on_event, limits=_stated_limits(run, problem))
        access = "join" if settings.join or settings.storage is None else "own"
        identity = StudyIdentity(
            *(settings.study or STUDY_NAME, str(config["run_id"]), problem.fingerprint, access),
            crashed=crashed_before(run.path),
        )
        job = StudyRun(settings, corrections, run, on_event, engine, around, identity)
        if extended:  # first, or a process that ended in between would have nothing more to do
            job.extend()
        if said != config:
            run.write_config(said)
        return job.go(resumed=True, extended=extended)


def open_search(
    settings: SearchSettings,
    problem: Problem,
    storage: str | Path,
    *,
    plan: FidelityPlan | None = None,
) -> Search:
    """A `Search` for one's own loop: `ask`, evaluate, `advance` or `fail`.

    Raises:
        StudyTaken: a study of that name is there and is not to be joined, or is in use.
    """
    identity = StudyIdentity(
        settings.study or STUDY_NAME,
        fingerprint=problem.fingerprint,
        access="join" if settings.join else "new",
    )
    proposals = Proposals(settings, problem, storage, identity)
    plan = plan or fidelity_plan(settings, problem.total_images, 1e-6)
    return Search(settings, problem, proposals, plan)


def kept_trials(run: RunDirectory) -> list[TrialRecord]:
    """The finished trials of a run in logical order, from its study.

    Raises:
        StorageUnreachable: the study's database does not answer.
        RunDirectoryError: its journal is damaged, or there is none.
    """
    with _study_of(run) as found:
        if found is None:
            raise RunDirectoryError(f"run '{run.path}' has no study any more; name another run")
        storage, study = found
        records = [record_of(trial) for trial in storage.get_all_trials(study, deepcopy=False)]
    return sorted((r for r in records if r is not None), key=lambda r: r.number)


def kept_result(run: RunDirectory) -> dict[str, Any] | None:
    """What a finished run's pareto.json says, from its study; None where that does not keep it.

    Raises:
        StorageUnreachable: the study's database does not answer.
        RunDirectoryError: its journal is damaged.
    """
    with _study_of(run) as found:
        kept = None if found is None else found[0].get_study_user_attrs(found[1])
    kept = (kept or {}).get(result_key(run))
    return dict(kept) if isinstance(kept, Mapping) else None


def _study_of(run: RunDirectory) -> KeptStudy:
    settings = run.section("search", SearchSettings)
    return kept_study(settings.storage or run.study_log, settings.study or STUDY_NAME)


def _named(settings: SearchSettings, run: RunDirectory, run_id: str) -> SearchSettings:
    """The settings with the study's name: in a database one that no other run has."""
    if settings.study is not None:
        return settings
    name = STUDY_NAME if settings.storage is None else f"{run.path.name}-{run_id}"[-200:]
    return dataclasses.replace(settings, study=name)


def _check_free(settings: SearchSettings, problem: Problem, identity: StudyIdentity) -> None:
    """Refuse a study that may not be opened, before anything is written."""
    if settings.storage is None:
        return
    with storage_errors(settings.storage):
        objectives = make_objectives(settings.objectives, problem.metric)
        check_study(open_storage(settings.storage), identity, objectives)


def _stated_limits(run: RunDirectory, problem: Problem) -> tuple[Budget, ...] | None:
    """The budgets with the shares of a prediction as config.yaml states them.

    None where an earlier version wrote it, or it is about others: then the study's identity tells.
    """
    place, items = Place(str(run.path / "config.yaml")) / "limits", run.read_config().get("limits")
    if items is None:
        return None
    items = items if isinstance(items, list) else [items]
    limits = tuple(typed(Budget, item, place) for item in items)
    if [(b.metric, b.text) for b in limits] != [(b.metric, b.text) for b in problem.budgets]:
        return None
    both = zip(limits, problem.budgets, strict=True)
    return tuple(a if b.relative and not b.exact else b for a, b in both)


def _search_section(settings: SearchSettings) -> dict[str, Any]:
    """Of config.yaml: no password in it."""
    data = settings.to_dict()
    if settings.storage is not None:
        data["storage"] = masked(settings.storage)
    return data
