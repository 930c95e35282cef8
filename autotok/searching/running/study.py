"""`StudyRun`: one process's part of a study, from its first trial to its tables."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from autotok.errors import NothingEvaluated
from autotok.interrupts import Interrupts
from autotok.searching.engines.base import Engine, InProcessEngine, Job, Outcome
from autotok.searching.proposing.feasible import idle_budgets
from autotok.searching.proposing.identity import StudyIdentity
from autotok.searching.proposing.proposals import CRASH, Proposals
from autotok.searching.proposing.storage import storage_errors
from autotok.searching.records.comparison import compare_front
from autotok.searching.records.final import Final
from autotok.searching.records.notes import study_note
from autotok.searching.records.record import TrialRecord
from autotok.searching.records.rundir import RunDirectory
from autotok.searching.space.problem import TallyLike
from autotok.searching.space.settings import FidelityPlan, SearchSettings

from .device_corrections import DeviceCorrections
from .events import (
    BudgetsResolved,
    Done,
    FinalEvaluation,
    FineTuning,
    OnEvent,
    Promoted,
    Started,
    TrialFinished,
    Working,
)
from .faults import faults_told
from .final_evaluation import LAST_PART, final_evaluation
from .finetune_length import fit_finetunes, fitted
from .judged_record import plain_tally
from .loop import REFERENCE, Search
from .race import finalists
from .search_result import SearchResult, result_key
from .time_limit import Around, TimeLimit, own_trials

_LOG = logging.getLogger(__name__)
# the whole table is written each time; what must not be lost is in the study at once
_TABLE_EVERY_S = 5.0
_TABLE_SHARE = 0.01
"""Of the time, once a table takes long to write."""
_FINAL_SHARE = 0.25
"""Of the progress shown."""
_DEADLY = 2 * CRASH
"""Deaths of the process in a trial after which it is not tried again."""


class StudyRun:
    """One process's part of a run."""

    def __init__(
        self,
        settings: SearchSettings,
        corrections: DeviceCorrections,
        run: RunDirectory,
        on_event: OnEvent | None,
        engine: Engine | None,
        around: Around,
        identity: StudyIdentity,
        earlier: Sequence[TrialRecord] = (),
    ) -> None:
        self.settings, self.corrections, self.run = settings, corrections, run
        self.engine = engine or InProcessEngine(corrections.original)
        self.on_event: OnEvent = on_event or (lambda event: None)
        self._table_due = 0.0
        self.started = ""
        self.interrupts = Interrupts(self._on_request)
        corrections.progress = self._progress
        with run.guarded(), storage_errors(settings.storage or run.study_log):
            self.notes = Proposals(settings, corrections.original, run.study_log, identity)
            corrections.keep_in(self.notes)
            if earlier and self.notes.noted("earlier") is None:
                self.notes.note("earlier", [r.to_dict() for r in earlier])
            own = own_trials(self.notes, identity.run, joins=settings.join)
        self.notes.in_process = isinstance(self.engine, InProcessEngine)
        self.problem = corrections.problem
        self.search = Search(settings, self.problem, self.notes, FidelityPlan(1, 1, 1), corrections)
        self.clock = TimeLimit(settings, self.search, self.engine.capacity, around, own)

    def extend(self) -> None:
        """Take back what ended an earlier part of the study, before anybody is told that there is
        more to do; images that were judged for its final evaluation are kept."""
        with self.run.guarded(), storage_errors(self.settings.storage or self.run.study_log):
            self.run.reopen()
            self.notes.forget("closed", "promoted", "finetune_room", *LAST_PART)
            if not self.search.evaluated:
                self.notes.forget("plan")

    def go(self, *, resumed: bool, extended: bool = False) -> SearchResult:
        try:
            advice = f"bring it back and continue with `autotok resume {self.run.path}`"
            advice += ": finished trials are safe"
            storage = self.settings.storage or self.run.study_log
            with (
                self.run.guarded(),
                storage_errors(storage, advice),
                self.interrupts,
                faults_told(self.run.path),
            ):
                return self._go(resumed=resumed, extended=extended)
        except BaseException:
            self._save_what_there_is()
            raise
        finally:
            self._leave_study()
            self.engine.close()

    def _go(self, *, resumed: bool, extended: bool) -> SearchResult:
        self.notes.describe(study_note(self.run.read_config(), self.search.objectives))
        self._start_workers()
        self.clock.reserved_s = self.corrections.expected_s(self.settings.front_size)
        self.search.plan = self._plan()
        if extended:
            self.search.plan = self.clock.extended(self.search.plan)
            self.notes.note("plan", dataclasses.asdict(self.search.plan))
        finished = len(self.search.records)
        self.on_event(Started(self._progress(), self.settings.n_trials, finished, resumed))
        self.on_event(BudgetsResolved(self._progress(), self.problem.budgets))
        for sentence in idle_budgets(self.problem):
            _LOG.warning("%s", sentence)
            self.on_event(Working(self._progress(), sentence))
        stopped_by = self._trials()
        if not any(r.measured for r in self.search.records):
            raise self._nothing(stopped_by)
        finalists(self.search)  # measured now, so that the final evaluation knows the time left
        with self.interrupts.patient():
            final = final_evaluation(self.search, self.engine, self._on_final, self.clock)
        self._write(final)
        seconds = self.clock.elapsed()
        self.on_event(Done(1.0, self.search.evaluated, len(final.front), stopped_by))
        records = tuple(self.search.records)
        return SearchResult(
            *(self.run.path, records, final, self.search.plan, self.settings, stopped_by, seconds),
            measuring=self.corrections.summary(),
            workers=self.started,
            budgets=self.problem.budgets,
            no_finetune=self._why_no_finetune(),
        )

    def _start_workers(self) -> None:
        """Have the workers built; the time limit leaves that out."""
        seconds = self.engine.start()
        if isinstance(self.engine, InProcessEngine):
            return
        self.clock.excluded_s, workers = seconds, self.engine.capacity
        text = f"{workers} worker{'s' * (workers > 1)} started in {seconds:.1f} s"
        self.started = f"{text}, which the time limit leaves out"
        self.on_event(Working(self._progress(), self.started))

    def _nothing(self, stopped_by: str) -> NothingEvaluated:
        """What was missing, where no trial gave a quality."""
        failed = [r for r in self.search.records if r.state == "failed"]
        if failed:
            return NothingEvaluated(
                f"all {len(failed)} trials failed, the first with: {failed[0].reason}; see"
                f" {self.run.path / 'trials.csv'}"
            )
        if stopped_by == "timeout_s":
            return NothingEvaluated(
                f"no trial was run: {self.clock.account()}; go on with `autotok resume"
                f" {self.run.path} --timeout SECONDS`, 0 for no limit"
            )
        return NothingEvaluated(
            f"no trial was run: none of {len(self.search.records)} proposals is inside the budget;"
            " give a larger budget or a space with more room"
        )

    # --- time

    def _plan(self) -> FidelityPlan:
        """The study's plan; made once, from the speed measured, and kept."""
        noted = self.notes.noted("plan")
        if noted is None:
            noted = dataclasses.asdict(self.clock.make_plan(self.problem, self.engine))
            self._note_reference()
            self.notes.note("ceiling", self.search.quality_of_whole)
            self.notes.note("speed", self.clock.speed)
            self.notes.note("plan", noted)
        self._reference()
        self.search.ceiling = self.notes.noted("ceiling")
        self.clock.speed = self.notes.noted("speed") or self.clock.speed
        return FidelityPlan(**noted)

    # --- trials

    def _trials(self) -> str:
        """Run trials until enough, out of time, or nothing new is left; the reason is kept."""
        if self.notes.noted("closed") is None:
            self.notes.note("closed", self._fill(self.search.ask, self._closes_trials))
        if self.notes.noted("promoted") is not None:
            self.search.plan = fitted(self.search.plan, self.notes)
        elif self.search.plan.finetunes:
            promoted = self._closes_promotions(0, first=True)
            if not promoted:
                self._know_reference()
                working = Working(self._progress(), "seeing how fast fine-tunes run")
                tell = partial(self.on_event, working)
                fit_finetunes(self.search, self.notes, self.clock, self.engine, tell)
                promoted = self._fill(self.search.ask_promotion, self._closes_promotions)
            self.notes.note("promoted", promoted)
        if why := self._why_no_finetune():
            self.on_event(Working(self._progress(), why))
        return str(self.notes.noted("closed"))

    def _why_no_finetune(self) -> str:
        """Why nothing was fine-tuned though it might have been, where it is the time."""
        plan, none = self.search.plan, not any(r.tuned is not None for r in self.search.records)
        if not (plan.finetunes and none and self.notes.noted("promoted") == "timeout_s"):
            return ""
        planned = plan.finetune_s or 0.0
        one = f"one of {planned:.0f} s" if planned >= 1.0 else "one"
        return f"nothing was fine-tuned: the time limit leaves no room for {one}"

    def _know_reference(self) -> None:
        """Judge the uncompressed model on a few images: what a fine-tune may hope for at best."""
        known = self._reference()
        seen = 0 if known is None else known.num_images
        if seen < self.search.plan.more:
            self.engine.submit(Job(REFERENCE, self.problem.whole, seen, self.search.plan.more))
            more = self.engine.collect().tally
            if more is not None:
                self.search.tallies[REFERENCE] = more if known is None else known + more
                self._note_reference()

    def _reference(self) -> TallyLike | None:
        """The uncompressed model's tally so far, from the study's notes if need be."""
        noted, load = self.notes.noted("uncompressed"), self.problem.load_tally
        if REFERENCE not in self.search.tallies and noted is not None and load is not None:
            self.search.tallies[REFERENCE] = load(noted)
        return self.search.tallies.get(REFERENCE)

    def _note_reference(self) -> None:
        if REFERENCE in self.search.tallies:
            self.notes.note("uncompressed", plain_tally(self.search.tallies[REFERENCE]))

    def _fill(self, ask: Callable[[], Job | None], closes: Callable[[int], str]) -> str:
        """Keep the engine busy until `closes(open jobs)` gives a reason or nothing is left."""
        with self.interrupts.patient():
            return self._filled(ask, closes)

    def _filled(self, ask: Callable[[], Job | None], closes: Callable[[int], str]) -> str:
        open_jobs, stopped_by = 0, ""
        while not stopped_by or open_jobs:
            while not stopped_by and open_jobs < self.engine.capacity:
                stopped_by = self.interrupts.asked or closes(open_jobs)
                found = None if stopped_by else ask()
                if found is None:
                    stopped_by = stopped_by or "exhausted"
                    break
                if self.notes.deaths[found.number] >= _DEADLY:
                    why = "the process died in this trial each time"
                    self._finished(self.search.fail(found.number, why, 0.0))
                    continue
                self._submit(found)
                open_jobs += 1
            if open_jobs:
                open_jobs -= self._collect()
        return stopped_by

    def _closes_trials(self, open_jobs: int) -> str:
        if self.search.tried + open_jobs >= self.settings.n_trials:
            return "n_trials"
        return "timeout_s" if self.clock.closes_trials() else ""

    def _closes_promotions(self, open_jobs: int, *, first: bool = False) -> str:
        if self.search.promoted >= self.search.plan.finetunes:
            return "finetunes"
        return "timeout_s" if self.clock.closes_promotions(first=first) else ""

    def _submit(self, job: Job) -> None:
        self.engine.submit(job)
        if job.task == "finetune":
            spec = job.config.finetune
            length = "" if spec is None else spec.length
            self.on_event(FineTuning(self._progress(), job.number, job.config, length))

    def _collect(self) -> int:
        """Take one outcome; 1 if its trial is finished, 0 if it goes on."""
        outcome = self.engine.collect()
        number, step = outcome.job.number, self._take(outcome)
        if isinstance(step, Job):
            self._submit(step)
            if step.start:
                self.on_event(Promoted(self._progress(), number, step.stop))
            return 0
        self._finished(step)
        return 1

    def _finished(self, record: TrialRecord) -> None:
        front = len(self.search.front())
        self.on_event(TrialFinished(self._progress(), record, self.search.evaluated, front))
        self._write_trials()

    def _take(self, outcome: Outcome) -> Job | TrialRecord:
        number = outcome.job.number
        if outcome.tuned is not None:
            return self.search.tuned(number, outcome.tuned, outcome.seconds)
        if outcome.tally is not None:
            return self.search.advance(number, outcome.tally, outcome.seconds)
        return self.search.fail(number, outcome.error, outcome.seconds)

    def _progress(self) -> float:
        expected = self.settings.n_trials
        expected += self.search.plan.finetunes
        share = self.search.over / expected
        if self.settings.timeout_s is not None:
            share = max(share, self.clock.elapsed() / self.settings.timeout_s)
        return (1.0 - _FINAL_SHARE) * min(1.0, share)

    def _on_request(self, signal_name: str) -> None:
        text = f"{signal_name}: stopping after the trial in hand; once more stops at once"
        self.on_event(Working(self._progress(), text))

    def _on_final(self, record: TrialRecord, share: float, racing: int) -> None:
        progress = 1.0 - _FINAL_SHARE * (1.0 - share)
        self.on_event(FinalEvaluation(progress, record, racing))
        self.interrupts.check()

    # --- tables

    def _write_trials(self, *, now: bool = False) -> None:
        begin = time.monotonic()
        if now or begin > self._table_due:
            records = [self.corrections.known(record) for record in self.search.records]
            self.run.write_records("trials.csv", records)
            end = time.monotonic()
            self._table_due = end + max(_TABLE_EVERY_S, (end - begin) / _TABLE_SHARE)

    def _save_what_there_is(self) -> None:
        """After an interruption: the table of finished trials; their truth is the study itself."""
        try:
            self._write_trials(now=True)
        except Exception as error:
            _LOG.warning("could not write trials.csv: %s", error)

    def _leave_study(self) -> None:
        """Nothing stays marked as running; where that fails, the next resume sees to it."""
        try:
            self.notes.close()
        except Exception as error:
            _LOG.warning("could not close the study: %s", " ".join(str(error).split()))

    def _write(self, final: Final) -> None:
        self._write_trials(now=True)
        found = compare_front(final, self.search.objectives, self.search.records)
        self.run.write_records("pareto.csv", final.front, further=found.columns)
        data: dict[str, Any] = {
            "version": 1,
            "objectives": [dataclasses.asdict(o) for o in self.search.objectives],
            "budgets": [dataclasses.asdict(b) for b in self.problem.budgets],
            "plan": dataclasses.asdict(self.search.plan),
            "precision": self.problem.precision,
            **final.to_dict(),
            "comparisons": found.to_dict(),
            "measuring": self.corrections.summary(),
        }
        self.notes.note(result_key(self.run), data)
        self.run.reopen()
        self.run.write_json("pareto.json", data)
