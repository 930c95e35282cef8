"""The final evaluation: the front, a random control and the uncompressed model on the full split.

A race (`race.py`): the front and whatever is not told from its best start; whoever is told from the
best, or is in the worse half, takes no further images. Then the controls of whoever is best.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence

from autotok.searching.engines.base import Engine
from autotok.searching.records.final import Final
from autotok.searching.records.pareto import best_of
from autotok.searching.records.record import TrialRecord

from .final_controls import FinalControls
from .final_images import FinalImages
from .loop import Search
from .other_backbones import best_elsewhere, by_best_backbone, left_out, uncompressed_models
from .race import final_front, finalists, goes_on, is_whole, recommended
from .second_count import SecondCount
from .time_limit import Begun, TimeLimit

LAST_PART = ("final_parts", "racing:*", "control_images", "without *")
"""Keys under which a study keeps how its final evaluation went on, but for images judged."""
_ROUNDS = 4


def final_evaluation(
    search: Search,
    engine: Engine,
    report: Callable[[TrialRecord, float, int], None],
    clock: TimeLimit,
) -> Final:
    """Evaluate finalists, control and reference on as many images as the time limit affords.

    What one part took decides how many images come next. `report(record, share, racing)` is called
    after each: the share done of what is thought to be to do, and how many models are in the race.
    """
    chosen, outside = finalists(search)
    chosen = [*chosen, *left_out(search, chosen)]
    references = uncompressed_models(search)
    racing = len(chosen) + len(references)
    images = FinalImages(search, engine, report, racing + search.settings.controls, racing)
    count = SecondCount(search)
    controls = FinalControls(search, images, count, clock)
    race = _Race(search, images, clock, controls)
    begun = time.monotonic()
    for record in chosen[:2]:  # the first one warms up
        begun = time.monotonic()
        count.verified(record)
    clock.expect_verifying(len(chosen), time.monotonic() - begun)
    entries = [(f"final:{r.number}", r) for r in chosen]
    found = race.in_parts([*entries, *references])
    chosen, uncompressed = found[: len(chosen)], found[len(chosen) :]
    fallen: dict[int, TrialRecord] = {}
    rounds = 0
    while new := [r for r in map(count.verified, chosen) if not (r.feasible or r.number in fallen)]:
        # all images told that they cost too much: others take their places, until all hold or,
        # after some rounds, any does
        rounds += 1
        fallen |= {r.number: r for r in new}
        if rounds > _ROUNDS and len(new) < len(chosen):
            break
        chosen, more = finalists(search, fallen)
        chosen = [*chosen, *left_out(search, chosen, fallen)]
        outside = [*outside, *(r for r in more if r not in outside)]
        chosen = race.afterwards([(f"final:{r.number}", r) for r in chosen])
    chosen = [r for r in map(count.verified, chosen) if r.number not in fallen]
    within = [r for r in chosen if r.within_budget]
    measured, least = [r for r in within if r.measured], search.settings.min_quality
    best = recommended(measured, search.objectives, least)
    front = final_front(within, search.objectives)
    if best is not None:
        front.keep(best)
    *of_random, smaller = [None] if best is None else controls.of(best)
    random = tuple(c for c in of_random if c is not None)
    control = best_of([c for c in random if c.measured], search.objectives)
    out, why = (*outside, *fallen.values()), "" if smaller else controls.no_smaller_image
    why_not = "" if random else controls.no_random_control
    own, *others = by_best_backbone(uncompressed, best)
    others += best_elsewhere(search, chosen, front.records, best)
    front_of = tuple(front.records)
    return Final(*(front_of, best, control, random, own, out, smaller, why, why_not, tuple(others)))


class _Race:
    """Ever more images for ever fewer records."""

    def __init__(
        self, search: Search, images: FinalImages, clock: TimeLimit, controls: FinalControls
    ) -> None:
        self._search, self._images, self._clock = search, images, clock
        self._controls = controls
        self._raced: dict[str, TrialRecord] = {}

    def in_parts(self, entries: Sequence[tuple[str, TrialRecord]]) -> list[TrialRecord]:
        """The records on ever more images, of those that still race, as many as time affords."""
        clock, begun = self._clock, None
        found, racing = dict(entries), [key for key, _ in entries]
        self._raced = found  # as they are so far
        for part in range(clock.final_parts):
            alive = [r for r in (found[key] for key in racing) if r.state != "failed"]
            if not alive:
                break
            affords = functools.partial(self._affords, part, begun, alive)
            if not self._more_images(part, affords):
                break
            self._images.in_race = len(racing)
            to_come = (clock.final_parts - part) * len(racing)
            self._images.total = self._images.done + to_come + self._search.settings.controls
            ran, begin = self._images.ran, time.monotonic()
            more = self._images.run([(key, found[key]) for key in racing])
            found |= zip(racing, more, strict=True)
            spent_s = time.monotonic() - begin
            begun = Begun(self._search.plan.final, self._images.ran - ran, spent_s)
            racing = self._racing(part, {key: found[key] for key in racing})
        return list(self._with_best_in_full().values())

    def _affords(self, part: int, begun: Begun | None, racing: Sequence[TrialRecord]) -> int:
        """Images for those still in the race; before the last part, the controls of who leads are
        looked at, so that those in question have their share of it."""
        controls = None
        if begun is not None and part == self._clock.final_parts - 1:
            leads = self._leads()
            controls = None if leads is None else self._controls.in_question(leads)
        total, seen = self._search.problem.total_images, [self._images.seen(r) for r in racing]
        return self._clock.final_images(total, begun, seen, part, controls)

    def _leads(self) -> TrialRecord | None:
        """What would be called best by now."""
        records = [r for r in self._raced.values() if r.measured and r.feasible]
        records = [r for r in records if not is_whole(r)]
        return recommended(records, self._search.objectives, self._search.settings.min_quality)

    def _with_best_in_full(self) -> dict[str, TrialRecord]:
        """What raced; where a part that came later left the best behind one that had dropped out,
        that one catches up."""
        found = self._raced
        while True:
            best = best_of([r for r in found.values() if r.measured], self._search.objectives)
            left = self._images.left_to_do
            behind = [key for key, r in found.items() if r is best and left(r) is not None]
            if not behind:
                return found
            found[behind[0]] = self._images.run([(behind[0], found[behind[0]])])[0]

    def afterwards(self, entries: Sequence[tuple[str, TrialRecord]]) -> list[TrialRecord]:
        """Those that raced as they came out of it, others on all images."""
        new = [(key, record) for key, record in entries if key not in self._raced]
        self._raced |= zip([key for key, _ in new], self._images.run(new), strict=True)
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
        return [key for key in noted if key in found]

    def _more_images(self, part: int, affords: Callable[[], int]) -> bool:
        """Set the images that are run; False where an earlier part ran as many.

        Kept with the study, so that a resumed one runs as many.
        """
        notes, search = self._search.proposals, self._search
        fixed: list[int] = list(notes.noted("final_parts") or ())
        if len(fixed) == part:
            fixed.append(affords())
            notes.note("final_parts", fixed)
        search.plan = dataclasses.replace(search.plan, final=fixed[part])
        return part == 0 or fixed[part] > fixed[part - 1]
