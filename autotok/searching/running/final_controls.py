"""`FinalControls`: what the best is compared with, on as many images as the time affords."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Sequence

from autotok.evaluation.paired import compare
from autotok.metrics import ON_DEVICE
from autotok.searching.records.record import TrialRecord

from .controls import (
    SMALLER,
    control_record,
    controls_at_cost,
    no_random_pruning,
    retrained_like,
    smaller_image,
)
from .events import CONTROLS
from .final_images import FinalImages
from .loop import Search
from .second_count import SecondCount
from .time_limit import TimeLimit

_LOG = logging.getLogger(__name__)
NOTHING = "nothing inside the budget is there to compare with"
CONTROL_ORIGIN = "control"
OUTSIDE = "counted or measured anew, it is outside the budget"


class FinalControls:
    """Judges the controls of a best.

    Attributes:
        no_smaller_image: Why there is no control on smaller images, if there is none.
        no_random_control: Why there is no random pruning, if there is none.
    """

    def __init__(
        self, search: Search, images: FinalImages, count: SecondCount, clock: TimeLimit
    ) -> None:
        self._search, self._images, self._count, self._clock = search, images, count, clock
        self.no_smaller_image = self.no_random_control = NOTHING

    def of(self, best: TrialRecord) -> list[TrialRecord | None]:
        """Random pruning at the cost of the best, in several shapes, the best's own among them,
        each inside every budget; last the uncompressed model on smaller images, None without.

        Where the best was fine-tuned, the first is fine-tuned in the same way.
        """
        entries = self._entries(best)
        found = self._contested(entries, best)
        failed = {r.origin: f"it failed ({r.reason})" for r in found if r.state == "failed"}
        of_random, seen = (
            [r for r in found if r.state != "failed" and (r.origin == SMALLER) == smaller]
            for smaller in (False, True)
        )
        if not seen and any(record.origin == SMALLER for _, record in entries):
            self.no_smaller_image = failed.get(SMALLER, "no time was left for it")
        if not of_random:
            self.no_random_control = failed.get(CONTROL_ORIGIN, self.no_random_control)
        return [*of_random, seen[0] if seen else None]

    def in_question(self, best: TrialRecord) -> list[int] | None:
        """Images seen by controls that few images do not tell from what is best while the race goes
        on; None, and nothing is run, where they take a fine-tune."""
        if best.tuned is not None:
            return None
        return [self._images.seen(r) for r in self._tied(self._entries(best), best)[1]]

    def _entries(self, best: TrialRecord) -> list[tuple[str, TrialRecord]]:
        """The controls of a best, to be judged, each with its key in the study."""
        records: list[TrialRecord] = []
        self.no_random_control = no_random_pruning(self._search, best)
        for repaired in controls_at_cost(self._search, best):
            if len(records) == self._search.settings.control_shapes:
                break
            record = self._control(control_record(-2 - len(records), repaired, CONTROL_ORIGIN))
            self.no_random_control = "" if record is not None or records else OUTSIDE
            if record is not None:
                tuned = not records and best.tuned is not None
                records.append(retrained_like(record, best) if tuned else record)
        smaller = self._smaller_image(best)
        if smaller is not None:  # before the further shapes, for which time may be short
            records.insert(1, smaller)
        return [(f"control:{r.config.config_id}", r) for r in records if r.config is not None]

    def _smaller_image(self, best: TrialRecord) -> TrialRecord | None:
        """The uncompressed model on smaller images, to be judged; None where there is none."""
        found, number = smaller_image(self._search, best), -2 - self._search.settings.control_shapes
        if isinstance(found, str):
            self.no_smaller_image = found
            return None
        record = self._control(control_record(number, found, SMALLER))
        if record is None:
            self.no_smaller_image = OUTSIDE
        return record

    def _control(self, record: TrialRecord) -> TrialRecord | None:
        """The record of a control, counted anew; None where it is outside a budget."""
        record = self._count.verified(record)
        if any(b.metric in ON_DEVICE for b in self._search.problem.budgets):
            record = self._search.corrections.judged(record)
        return record if record.feasible and record.within_budget else None

    def _contested(
        self, entries: Sequence[tuple[str, TrialRecord]], best: TrialRecord
    ) -> list[TrialRecord]:
        """Controls on the first images; those not told from the best there, on as many more as the
        time affords."""
        search, plan = self._search, self._search.plan
        found, tied = self._tied(entries, best)
        images = search.proposals.noted("control_images")
        if images is None:
            images = self._clock.control_images(plan.final, len(tied))
            search.proposals.note("control_images", images)
        search.plan = dataclasses.replace(plan, more=plan.few, final=images)
        keys = {record.number: key for key, record in entries}
        more = {r.number: r for r in self._images.run([(keys[r.number], r) for r in tied])}
        search.plan = plan
        return [more.get(r.number, r) for r in found]

    def _tied(
        self, entries: Sequence[tuple[str, TrialRecord]], best: TrialRecord
    ) -> tuple[list[TrialRecord], list[TrialRecord]]:
        """(the controls on the first images; those of them that are not told from the best)."""
        search, plan = self._search, self._search.plan
        search.plan = dataclasses.replace(plan, more=plan.few, final=plan.few)
        found = self._finals_in_time(entries)
        search.plan = plan
        against = [(r, compare(best.tally, r.tally)) for r in found]
        tied = [r for r, paired in against if paired is not None and paired.verdict != "better"]
        return found, tied

    def _finals_in_time(self, entries: Sequence[tuple[str, TrialRecord]]) -> list[TrialRecord]:
        """As many as the time limit affords, of every kind of control one at least; whether
        one is left out is kept with the study."""
        found: list[TrialRecord] = []
        notes, each, took_s = self._search.proposals, self._images.capacity, 0.0
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
            found += self._images.run(now)
            took_s = time.monotonic() - begun
        return found
