"""The final evaluation: the front, a random control and the uncompressed model on the full split.

A race (`race.py`): the front and whatever is not told from its best start; whoever is told from the
best, or is in the worse half, takes no further images. No image is run twice. Every result is kept
with the study as soon as it is there, so an interrupted one goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence

from autotok.evaluation.paired import compare
from autotok.metrics import ON_DEVICE
from autotok.searching.engines.base import Engine, Job, Outcome
from autotok.searching.records.final import Final
from autotok.searching.records.pareto import Front, best_of
from autotok.searching.records.record import TrialRecord
from autotok.searching.space.problem import TallyLike, to_score

from .controls import (
    SMALLER,
    control_record,
    controls_at_cost,
    expected_count,
    retrained_like,
    smaller_image,
)
from .events import CONTROLS
from .loop import Search, after_finetune, judged, plain_tally
from .other_backbones import best_elsewhere, by_best_backbone, left_out, uncompressed_models
from .race import finalists, goes_on, in_question
from .time_limit import Begun, TimeLimit

_LOG = logging.getLogger(__name__)
_ROUNDS = 4
"""Of choosing finalists anew where some turn out to be outside the budget."""


def final_evaluation(
    search: Search,
    engine: Engine,
    report: Callable[[TrialRecord, float, int], None],
    clock: TimeLimit,
) -> Final:
    """Evaluate finalists, control and reference on as many images as the time limit affords.

    What one part took decides how many images come next. `report(record, share, racing)` is called
    after each: the share done of what may be to do at most, and how many models are in the race.
    """
    chosen, outside = finalists(search)
    chosen = [*chosen, *left_out(search, chosen)]
    references = uncompressed_models(search)
    word = _FinalEvaluation(search, engine, report, clock, len(chosen) + len(references) - 1)
    begun = time.monotonic()
    for record in chosen[:2]:  # the first one warms up
        begun = time.monotonic()
        word.verified(record)
    clock.expect_verifying(len(chosen), time.monotonic() - begun)
    entries = [(f"final:{r.number}", r) for r in chosen]
    found = word.finals_in_parts([*entries, *references])
    chosen, uncompressed = found[: len(chosen)], found[len(chosen) :]
    fallen: dict[int, TrialRecord] = {}
    for _ in range(_ROUNDS):
        chosen = [word.verified(r) for r in chosen]
        new = {r.number: r for r in chosen if not r.feasible and r.number not in fallen}
        if not new:
            break
        fallen |= new  # all images told that they cost too much: others take their places
        chosen, more = finalists(search, fallen)
        chosen = [*chosen, *left_out(search, chosen, fallen)]
        outside = [*outside, *(r for r in more if r not in outside)]
        chosen = word.after_race([(f"final:{r.number}", r) for r in chosen])
    front = Front(search.objectives, [r for r in chosen if r.within_budget]).records
    best = best_of(front, search.objectives)
    *controls, smaller = [None] if best is None else word.controls(best)
    random = tuple(c for c in controls if c is not None)
    control = best_of([c for c in random if c.measured], search.objectives)
    out, why = (*outside, *fallen.values()), "" if smaller else word.no_smaller_image
    own, *others = by_best_backbone(uncompressed, best)
    others += best_elsewhere(search, chosen, front, best)
    return Final(tuple(front), best, control, random, own, out, smaller, why, tuple(others))


class _FinalEvaluation:
    def __init__(
        self,
        search: Search,
        engine: Engine,
        report: Callable[[TrialRecord, float, int], None],
        clock: TimeLimit,
        finalists: int,
    ) -> None:
        self._search, self._engine, self._report, self._clock = search, engine, report, clock
        self._total = finalists + 1 + search.settings.controls
        self.no_smaller_image = "nothing inside the budget is there to compare with"
        self._done = self._ran = 0
        self._in_race = finalists + 1
        self._raced: dict[str, TrialRecord] = {}
        self._counted: dict[str, float] = {}

    def finals_in_parts(self, entries: Sequence[tuple[str, TrialRecord]]) -> list[TrialRecord]:
        """`finals` on ever more images, of those still in the race, as many as the time affords."""
        total, clock, begun = self._search.problem.total_images, self._clock, None
        found, racing = dict(entries), [key for key, _ in entries]
        for part in range(clock.final_parts):
            self._in_race = len(racing)
            self._total = self._done + (clock.final_parts - part) * len(racing)
            self._total += self._search.settings.controls
            affords = functools.partial(clock.final_images, total, begun, len(racing), part)
            if not self._more_images(part, affords):
                break
            ran, begin = self._ran, time.monotonic()
            found |= zip(racing, self.finals([(key, found[key]) for key in racing]), strict=True)
            spent_s = time.monotonic() - begin
            begun = Begun(self._search.plan.final, self._ran - ran, spent_s)
            racing = self._racing(part, {key: found[key] for key in racing})
        self._raced = found
        return list(self._with_best_in_full().values())

    def _with_best_in_full(self) -> dict[str, TrialRecord]:
        """What raced; where a part that came later left the best behind one that had dropped out,
        that one catches up."""
        found = self._raced
        while True:
            best = best_of([r for r in found.values() if r.measured], self._search.objectives)
            behind = [key for key, r in found.items() if r is best and self._job(r) is not None]
            if not behind:
                return found
            found[behind[0]] = self.finals([(behind[0], found[behind[0]])])[0]

    def after_race(self, entries: Sequence[tuple[str, TrialRecord]]) -> list[TrialRecord]:
        """Those that raced as they came out of it, others on all images."""
        new = [(key, record) for key, record in entries if key not in self._raced]
        self._raced |= zip([key for key, _ in new], self.finals(new), strict=True)
        return [self._raced[key] for key, _ in entries]

    def _racing(self, part: int, found: Mapping[str, TrialRecord]) -> list[str]:
        """Who of those that raced goes on; kept with the study, so that a resumed one agrees."""
        notes, objectives = self._search.proposals, self._search.objectives
        noted: list[str] | None = notes.noted(f"racing:{part}")
        if noted is None:
            best = best_of([r for r in found.values() if r.measured], objectives)
            stay = goes_on(list(found.values()), objectives, best)
            noted = [key for key, stays in zip(found, stay, strict=True) if stays]
            notes.note(f"racing:{part}", noted)
        return noted

    def _more_images(self, part: int, affords: Callable[[], int]) -> bool:
        """Set the images that `finals` runs; False where an earlier part ran as many.

        Kept with the study, so that a resumed one runs as many.
        """
        notes, search = self._search.proposals, self._search
        fixed: list[int] = list(notes.noted("final_parts") or ())
        if len(fixed) == part:
            fixed.append(affords())
            notes.note("final_parts", fixed)
        search.plan = dataclasses.replace(search.plan, final=fixed[part])
        return part == 0 or fixed[part] > fixed[part - 1]

    def finals(self, entries: Sequence[tuple[str, TrialRecord]]) -> list[TrialRecord]:
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
            if noted is not None and self._job(known) is None:
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
        self._done += 1
        self._report(record, min(1.0, self._done / self._total), self._in_race)

    def _evaluated(
        self, entries: Sequence[tuple[str, TrialRecord]]
    ) -> Iterator[tuple[str, TrialRecord]]:
        """Every entry with its quality, as the engine delivers them."""
        left = deque(entries)
        open_jobs: dict[int, tuple[str, TrialRecord]] = {}
        while left or open_jobs:
            while left and len(open_jobs) < self._engine.capacity:
                key, record = left.popleft()
                job = self._job(record)
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

    def _job(self, record: TrialRecord) -> Job | None:
        """What is left to do for a record: a control's fine-tune, then the images not yet seen."""
        assert record.config is not None
        if record.state == "failed":
            return None
        if record.config.mode == "retrain" and record.tuned is None and record.score is None:
            return Job(record.number, record.config, task="finetune")
        seen, stop = self._tally(record), self._search.plan.final
        start = 0 if seen is None else to_score(seen).num_images
        config = record.config if record.tuned is not None else record.config.plugged_in
        return Job(record.number, config, start, stop) if start < stop else None

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
            seconds = outcome.seconds
            self._ran += outcome.job.stop - outcome.job.start
        assert tally is not None
        record = judged(
            dataclasses.replace(record, state="complete"), tally, self._search.problem.budgets
        )
        return dataclasses.replace(
            record, fidelity="final", tally=plain_tally(tally), seconds=record.seconds + seconds
        )

    def verified(self, record: TrialRecord) -> TrialRecord:
        """The record with the independent counter's figure; beyond the budget it is infeasible.

        Where images cost different amounts, that counter runs some of them: how far it is from
        what was counted on the same images is taken for all.
        """
        problem, record = self._search.problem, self._search.corrections.known(record)
        assert record.config is not None
        assert record.costs is not None
        if problem.count is None:
            return dataclasses.replace(record, within_budget=record.violation <= 0.0)
        key = record.config.config_id
        if key not in self._counted:
            self._counted[key] = float(problem.count(record.config))
        counted, expected = self._counted[key], expected_count(record)
        limits = [b.limit for b in problem.budgets if b.metric == "macs"]
        macs = record.costs.macs * counted / expected
        holds = record.violation <= 0.0 and all(macs <= limit for limit in limits)
        if counted != expected:
            _LOG.warning(
                "trial %d: the independent counter finds %.0f MACs, the formula %.0f",
                *(record.number, counted, expected),
            )
        return dataclasses.replace(
            record, macs_counted=round(counted), within_budget=holds, feasible=holds
        )

    def controls(self, best: TrialRecord) -> list[TrialRecord | None]:
        """Random pruning at the cost of the best, in several shapes, the best's own among them,
        each inside every budget; last the uncompressed model on smaller images, None without.

        Where the best was fine-tuned, the first is fine-tuned in the same way.
        """
        records: list[TrialRecord] = []
        for repaired in controls_at_cost(self._search, best):
            if len(records) == self._search.settings.control_shapes:
                break
            record = self._control(control_record(-2 - len(records), repaired, "control"))
            if record is not None:
                tuned = not records and best.tuned is not None
                records.append(retrained_like(record, best) if tuned else record)
        smaller = self._smaller_image(best)
        if smaller is not None:  # before the further shapes, for which time may be short
            records.insert(1, smaller)
        entries = [(f"control:{r.config.config_id}", r) for r in records if r.config is not None]
        found = self._contested(entries, best)
        seen = [r for r in found if r.origin == SMALLER]
        if smaller is not None and not seen:
            self.no_smaller_image = "no time was left for it"
        return [*(r for r in found if r.origin != SMALLER), seen[0] if seen else None]

    def _smaller_image(self, best: TrialRecord) -> TrialRecord | None:
        """The uncompressed model on smaller images, to be judged; None where there is none."""
        found, number = smaller_image(self._search, best), -2 - self._search.settings.control_shapes
        if isinstance(found, str):
            self.no_smaller_image = found
            return None
        record = self._control(control_record(number, found, SMALLER))
        if record is None:
            self.no_smaller_image = "counted or measured anew, it is outside the budget"
        return record

    def _control(self, record: TrialRecord) -> TrialRecord | None:
        """The record of a control, counted anew; None where it is outside a budget."""
        record = self.verified(record)
        if any(b.metric in ON_DEVICE for b in self._search.problem.budgets):
            record = self._search.corrections.judged(record)
        return record if record.feasible and record.within_budget else None

    def _contested(
        self, entries: Sequence[tuple[str, TrialRecord]], best: TrialRecord
    ) -> list[TrialRecord]:
        """Controls on the first images; those not told from the best there, on all of them."""
        search = self._search
        every, few = search.plan.final, min(search.plan.final, search.plan.more)
        search.plan = dataclasses.replace(search.plan, final=few)
        found = self._finals_in_time(entries)
        tied = [
            r
            for r, close in zip(found, in_question(found, search.objectives, best), strict=True)
            if close and compare(best.tally, r.tally) is not None
        ]
        images = search.proposals.noted("control_images")
        if images is None:
            images = self._clock.control_images(every, len(tied))
            search.proposals.note("control_images", images)
        search.plan = dataclasses.replace(search.plan, final=images)
        keys = {record.number: key for key, record in entries}
        more = {r.number: r for r in self.finals([(keys[r.number], r) for r in tied])}
        search.plan = dataclasses.replace(search.plan, final=every)
        return [more.get(r.number, r) for r in found]

    def _finals_in_time(self, entries: Sequence[tuple[str, TrialRecord]]) -> list[TrialRecord]:
        """`finals` of as many as the time limit affords, of every kind of control one at least;
        whether one is left out is kept with the study."""
        found: list[TrialRecord] = []
        notes, each, took_s = self._search.proposals, self._engine.capacity, 0.0
        for begin in range(0, len(entries), each):
            now = [e for e in entries[begin : begin + each] if not notes.noted(f"without {e[0]}")]
            kinds = {record.origin for record in found}
            spare = bool(now) and all(record.origin in kinds for _, record in now)
            if spare and notes.noted(now[0][0]) is None and self._clock.is_over(took_s):
                for key, record in now:
                    notes.note(f"without {key}", True)
                    _LOG.warning("no time is left for one more %s", CONTROLS[record.origin])
                continue
            begun = time.monotonic()
            found += self.finals(now)
            took_s = time.monotonic() - begun
        return found
