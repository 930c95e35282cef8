"""`FinalImages`: records on as many images as the plan says, whatever they have seen so far.

No image is run twice. Every result is kept with the study as soon as it is there, so that an
interrupted final evaluation goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from autotok.searching.engines.base import Engine, Job, Outcome
from autotok.searching.records.record import TrialRecord
from autotok.searching.space.problem import TallyLike

from .judged_record import after_finetune, judged, plain_tally
from .loop import Search

_LOG = logging.getLogger(__name__)


class FinalImages:
    """Runs records at the last fidelity and reports each.

    Attributes:
        capacity: Jobs at a time.
        total: Results that are thought to come, for the share that is reported.
        done: Results so far.
        ran: Images run so far.
        in_race: Models in the race, as reported.
    """

    def __init__(
        self,
        search: Search,
        engine: Engine,
        report: Callable[[TrialRecord, float, int], None],
        total: int,
        in_race: int,
    ) -> None:
        self._search, self._engine, self._report = search, engine, report
        self.capacity = engine.capacity
        self.total, self.in_race = total, in_race
        self.done = self.ran = 0
        self._end: int | None = None
        """Images there are, where some of those listed turned out to be unreadable."""

    def run(self, entries: Sequence[tuple[str, TrialRecord]]) -> list[TrialRecord]:
        """The records at the last fidelity, in the order given; from the study's notes if there.

        As many run at a time as the engine takes.
        """
        notes = self._search.proposals
        found: dict[str, TrialRecord] = {}
        waiting = []
        for key, record in entries:
            noted = notes.noted(key)
            known = (
                record if noted is None else TrialRecord.from_dict(noted, f"'{key}' of the study")
            )
            if noted is not None and self.left_to_do(known) is None:
                found[key] = known
                self._tell(known)
            else:
                waiting.append((key, known))
        for key, record in self._evaluated(waiting):
            notes.note(key, record.to_dict())
            found[key] = record
            self._tell(record)
        return [found[key] for key, _ in entries]

    def _tell(self, record: TrialRecord) -> None:
        self.done += 1
        self._report(record, min(1.0, self.done / self.total), self.in_race)

    def _evaluated(
        self, entries: Sequence[tuple[str, TrialRecord]]
    ) -> Iterator[tuple[str, TrialRecord]]:
        """Every entry with its quality, as the engine delivers them."""
        left = deque(entries)
        open_jobs: dict[int, tuple[str, TrialRecord]] = {}
        while left or open_jobs:
            while left and len(open_jobs) < self._engine.capacity:
                key, record = left.popleft()
                job = self.left_to_do(record)
                if job is None:
                    yield key, self._finished(record, None)
                    continue
                self._engine.submit(job)
                open_jobs[job.number] = key, record
            if not open_jobs:
                continue
            outcome = self._engine.collect()
            key, record = open_jobs.pop(outcome.job.number)
            if outcome.tuned is not None:
                record = dataclasses.replace(record, tuned=dataclasses.asdict(outcome.tuned))
                record = after_finetune(record, outcome.tuned)
                left.appendleft((key, record))
            else:
                yield key, self._finished(record, outcome)

    def left_to_do(self, record: TrialRecord) -> Job | None:
        """What is left to do for a record: a control's fine-tune, then the images not yet seen."""
        assert record.config is not None
        if record.state == "failed":
            return None
        if record.config.mode == "retrain" and record.tuned is None and record.score is None:
            return Job(record.number, record.config, task="finetune")
        start, stop = self.seen(record), self._search.plan.final
        stop = stop if self._end is None else min(stop, self._end)
        config = record.config if record.tuned is not None else record.config.plugged_in
        return Job(record.number, config, start, stop) if start < stop else None

    def seen(self, record: TrialRecord) -> int:
        """Images behind a record's own quality so far."""
        known = self._tally(record)
        return 0 if known is None else known.num_images

    def _tally(self, record: TrialRecord) -> TallyLike | None:
        """The sums behind the record's own quality: a trial's, or those of the first part."""
        if record.score is None:
            return None
        load, own = self._search.problem.load_tally, record.tally
        if record.fidelity == "final" and load is not None and own is not None:
            return load(own)
        return self._search.tally(record)

    def _finished(self, record: TrialRecord, outcome: Outcome | None) -> TrialRecord:
        known = self._tally(record)
        tally, seconds = known, 0.0
        if outcome is not None:
            if outcome.tally is None:
                _LOG.warning(
                    "final evaluation on trial %d failed: %s", record.number, outcome.error
                )
                return dataclasses.replace(record, state="failed", reason=outcome.error)
            tally = outcome.tally if known is None else known + outcome.tally
            seconds, job = outcome.seconds, outcome.job
            self.ran += outcome.tally.num_images
            if outcome.tally.num_images < job.stop - job.start:
                self._end = job.start + outcome.tally.num_images
        assert tally is not None
        record = judged(
            dataclasses.replace(record, state="complete"), tally, self._search.problem.budgets
        )
        return dataclasses.replace(
            record, fidelity="final", tally=plain_tally(tally), seconds=record.seconds + seconds
        )
