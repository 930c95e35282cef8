"""`run_search` and `resume_search`: one study from its first trial to its tables."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotok.config import CompressionConfig
from autotok.errors import RunDirectoryError

from .engines.base import Engine, Job
from .engines.local import InProcessEngine
from .events import Done, FinalEvaluation, OnEvent, Promoted, Started, TrialFinished
from .last_word import Final, last_word
from .loop import Ask, Search
from .objective import make_objectives
from .problem import Problem
from .proposals import Proposals
from .record import TrialRecord
from .repair import check_budgets
from .rundir import RunDirectory
from .settings import Plan, SearchSettings, make_plan, members

__all__ = ["SearchResult", "open_search", "resume_search", "run_search"]

_LOG = logging.getLogger(__name__)
_TABLE_EVERY_S = 5.0
_SPEED_IMAGES = 8
_LAST_WORD_SHARE = 0.25
"""Of the progress shown."""


@dataclass(frozen=True)
class SearchResult:
    """A finished search."""

    directory: Path
    records: tuple[TrialRecord, ...]
    final: Final
    plan: Plan
    settings: SearchSettings
    stopped_by: str
    seconds: float

    @property
    def front(self) -> tuple[TrialRecord, ...]:
        """Non-dominated after the last word, cheapest first."""
        return self.final.front

    @property
    def best(self) -> TrialRecord | None:
        """The recommended configuration."""
        return self.final.best

    @property
    def evaluated(self) -> int:
        """Different configurations evaluated."""
        return sum(r.state == "complete" for r in self.records)


def run_search(
    settings: SearchSettings,
    problem: Problem,
    directory: str | Path | RunDirectory,
    on_event: OnEvent | None = None,
    *,
    sections: Mapping[str, Any] | None = None,
    engine: Engine | None = None,
) -> SearchResult:
    """A whole search in a new run directory.

    `sections` are further parts of config.yaml: what the caller needs to build the problem again.

    Raises:
        InfeasibleBudget: nothing in the space meets the budgets; the nearest feasible one is named.
        RunDirectoryError: the directory holds something already or cannot be written.
        KeyboardInterrupt: passed on after saving; `resume_search` goes on from there.
    """
    begin = time.monotonic()
    run = directory if isinstance(directory, RunDirectory) else RunDirectory.create(directory)
    try:
        check_budgets(problem)
    except BaseException:
        run.discard()
        raise
    run.write_config(
        {
            "search": settings.to_dict(),
            "budgets": [b.echo for b in problem.budgets],
            "space": problem.space.name,
            **(sections or {}),
        }
    )
    with run.held():
        return _Run(settings, problem, run, on_event, engine, begin).go(resumed=False)


def resume_search(
    problem: Problem,
    directory: str | Path,
    on_event: OnEvent | None = None,
    *,
    n_trials: int | None = None,
    timeout_s: float | None = None,
    engine: Engine | None = None,
) -> SearchResult:
    """Go on with a run: finished trials stay, interrupted ones run again.

    `n_trials` and `timeout_s` replace the run's own, to extend it; the time spent so far counts.
    """
    begin = time.monotonic()
    run = RunDirectory.open(directory)
    run.claim()
    with run.held():
        config = run.read_config()
        settings = SearchSettings.from_dict(config.get("search") or {})
        changes = {"n_trials": n_trials, "timeout_s": timeout_s}
        changes = {key: value for key, value in changes.items() if value is not None}
        if changes:
            settings = dataclasses.replace(settings, **changes)  # type: ignore[arg-type]
            run.write_config({**config, "search": settings.to_dict()})
        job = _Run(settings, problem, run, on_event, engine, begin)
        return job.go(resumed=True, extended=bool(changes))


def open_search(
    settings: SearchSettings, problem: Problem, storage: str | Path, *, plan: Plan | None = None
) -> Search:
    """A `Search` for one's own loop: `ask`, evaluate, `advance` or `fail`."""
    objectives = make_objectives(settings.objectives, problem.metric)
    proposals = Proposals(
        problem.space,
        problem.facts,
        objectives,
        storage=settings.storage or storage,
        sampler=settings.sampler,
        seed=settings.seed,
    )
    return Search(
        settings, problem, proposals, plan or make_plan(settings, problem.total_images, 1e-6)
    )


class _Run:
    """One process's part of a run."""

    def __init__(
        self,
        settings: SearchSettings,
        problem: Problem,
        run: RunDirectory,
        on_event: OnEvent | None,
        engine: Engine | None,
        begin: float,
    ) -> None:
        self.settings, self.problem, self.run = settings, problem, run
        self.engine = engine or InProcessEngine(problem)
        self.on_event: OnEvent = on_event or (lambda event: None)
        self._begin = begin
        self._table_written = 0.0
        with run.guarded():
            self.search = open_search(settings, problem, run.study_log, plan=Plan(1, 1, 1))
        self.notes = self.search.proposals

    def go(self, *, resumed: bool, extended: bool = False) -> SearchResult:
        try:
            with self.run.guarded():
                return self._go(resumed=resumed, extended=extended)
        except BaseException:
            self._save_what_there_is()
            raise
        finally:
            self.engine.close()

    def _go(self, *, resumed: bool, extended: bool) -> SearchResult:
        self._check_fingerprint()
        self.search.plan = self._plan()
        if extended:
            self.notes.note("closed", None)
        finished = len(self.search.records)
        self.on_event(Started(self._progress(), self.settings.n_trials, finished, resumed))
        stopped_by = self.notes.noted("closed") or self._trials()
        self._fix_final_images()
        final = last_word(self.search, self.engine, self._on_final)
        self._write(final)
        seconds = self._elapsed()
        self.on_event(Done(1.0, self.search.evaluated, len(final.front), stopped_by))
        records = tuple(self.search.records)
        return SearchResult(
            self.run.path, records, final, self.search.plan, self.settings, stopped_by, seconds
        )

    def _check_fingerprint(self) -> None:
        noted = self.notes.noted("fingerprint")
        if noted is None:
            self.notes.note("fingerprint", self.problem.fingerprint)
        elif noted != self.problem.fingerprint:
            raise RunDirectoryError(
                f"run '{self.run.path}' was started with another backbone, space, budget or data;"
                " start a new run with another --output"
            )

    # --- time

    def _elapsed(self) -> float:
        """Seconds used by this process and by those before it."""
        if not hasattr(self, "_before"):
            self._before = float(sum(r.seconds for r in self.search.records))
        return self._before + time.monotonic() - self._begin

    def _plan(self) -> Plan:
        """The study's plan; made once, from the speed measured, and kept."""
        noted = self.notes.noted("plan")
        if noted is not None:
            return Plan(**noted)
        seconds = 0.0
        if self.settings.timeout_s is not None:
            seconds = self._seconds_per_image()
        plan = make_plan(self.settings, self.problem.total_images, seconds)
        self.notes.note("plan", dataclasses.asdict(plan))
        return plan

    def _seconds_per_image(self) -> float:
        """At the limit of the budget: the uncompressed model's time, scaled by its cost."""
        config, images = CompressionConfig(), min(_SPEED_IMAGES, self.problem.total_images)
        for _ in range(2):  # the first run warms up
            begin = time.perf_counter()
            self.problem.evaluate(config, 0, images)
            seconds = (time.perf_counter() - begin) / images
        macs = self.problem.costs.cost(config).macs
        limits = [b.limit for b in self.problem.budgets if b.metric == "macs"]
        return seconds * min([1.0, *(limit / macs for limit in limits)])

    def _time_is_up(self) -> bool:
        if self.settings.timeout_s is None:
            return False
        plan, enough = self.search.plan, self.search.evaluated >= self.settings.min_trials
        reserved = self._last_word_seconds() * (plan.final if enough else plan.more)
        return self._elapsed() + reserved > self.settings.timeout_s

    def _last_word_seconds(self) -> float:
        """Per image."""
        return 1.1 * members(self.settings, len(self.search.front())) * self._speed()

    def _speed(self) -> float:
        """Seconds per image over the trials so far."""
        done = [r for r in self.search.records if r.score is not None and r.state == "complete"]
        images = sum(r.score.num_images for r in done if r.score is not None)
        return sum(r.seconds for r in done) / images if images else 0.0

    def _fix_final_images(self) -> None:
        """Fit the last word to the time left, once, before it starts."""
        plan = self.search.plan
        if self.notes.noted("final_images") is None:
            final = plan.final
            if self.settings.timeout_s is not None and self.settings.images_final is None:
                left = self.settings.timeout_s - self._elapsed()
                speed = max(self._last_word_seconds(), 1e-9)
                room = min(self.problem.total_images, int(left / speed))
                final = max(plan.more, room)
            self.notes.note("final_images", final)
        self.search.plan = dataclasses.replace(plan, final=int(self.notes.noted("final_images")))

    # --- trials

    def _trials(self) -> str:
        """Run trials until enough, out of time, or nothing new is left; the reason is kept."""
        open_jobs, stopped_by = 0, ""
        while not stopped_by or open_jobs:
            while not stopped_by and open_jobs < self.engine.capacity:
                stopped_by = self._reason_to_stop(open_jobs)
                if stopped_by:
                    break
                ask = self.search.ask()
                if ask is None:
                    stopped_by = "exhausted"
                    break
                self._submit(ask)
                open_jobs += 1
            if open_jobs:
                open_jobs -= self._collect()
        self.notes.note("closed", stopped_by)
        return stopped_by

    def _reason_to_stop(self, open_jobs: int) -> str:
        if self.search.evaluated + open_jobs >= self.settings.n_trials:
            return "n_trials"
        return "timeout_s" if self._time_is_up() else ""

    def _submit(self, ask: Ask) -> None:
        self.engine.submit(Job(ask.number, ask.config, ask.start, ask.stop))

    def _collect(self) -> int:
        """Take one outcome; 1 if its trial is finished, 0 if it goes on."""
        outcome = self.engine.collect()
        number = outcome.job.number
        if outcome.tally is None:
            step: Ask | TrialRecord = self.search.fail(number, outcome.error, outcome.seconds)
        else:
            step = self.search.advance(number, outcome.tally, outcome.seconds)
        if isinstance(step, Ask):
            self._submit(step)
            self.on_event(Promoted(self._progress(), number, step.stop))
            return 0
        front = len(self.search.front())
        self.on_event(TrialFinished(self._progress(), step, self.search.evaluated, front))
        self._write_trials()
        return 1

    def _progress(self) -> float:
        share = self.search.evaluated / self.settings.n_trials
        if self.settings.timeout_s is not None:
            share = max(share, self._elapsed() / self.settings.timeout_s)
        return (1.0 - _LAST_WORD_SHARE) * min(1.0, share)

    def _on_final(self, record: TrialRecord, done: int, total: int) -> None:
        progress = 1.0 - _LAST_WORD_SHARE * (1.0 - done / max(1, total))
        self.on_event(FinalEvaluation(min(1.0, progress), record, done, total))

    # --- tables

    def _write_trials(self, *, now: bool = False) -> None:
        if now or time.monotonic() - self._table_written > _TABLE_EVERY_S:
            self.run.write_records("trials.csv", self.search.records)
            self._table_written = time.monotonic()

    def _save_what_there_is(self) -> None:
        """After an interruption: the table of finished trials; their truth is the study itself."""
        try:
            self._write_trials(now=True)
            self.notes.abandon()
        except Exception as error:
            _LOG.warning("could not write trials.csv: %s", error)

    def _write(self, final: Final) -> None:
        self._write_trials(now=True)
        self.run.write_records("pareto.csv", final.front)
        data: dict[str, Any] = {
            "version": 1,
            "objectives": [dataclasses.asdict(o) for o in self.search.objectives],
            "budgets": [dataclasses.asdict(b) for b in self.problem.budgets],
            "plan": dataclasses.asdict(self.search.plan),
            **final.to_dict(),
        }
        self.run.write_json("pareto.json", data)
