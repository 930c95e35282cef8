"""`TimeLimit`: what the time limit affords, from the speeds measured so far."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from autotok.searching.engines.base import Engine, Job
from autotok.searching.proposing.proposals import Proposals
from autotok.searching.records.record import TrialRecord
from autotok.searching.space.problem import Problem, TallyLike
from autotok.searching.space.settings import FidelityPlan, SearchSettings, fidelity_plan, members

from .loop import REFERENCE, Search

_SPEED_IMAGES, _SPEED_BATCH = 8, 32
"""Per worker, one by one, the first of which warms up; then so many at once, if there is time."""
_SPEED_SHARE = 0.05
"""Of the time left; measuring the speed ends there, after one image at least."""
_MOST_ROOM = 4.0
_LEAST_S = 1.0
"""A plan is made for so much at least."""
_PARTS = 6
"""Of the final evaluation, in equal time: each for about half of those before it."""
_SLACK = 1.1
"""Estimates are stretched by this: the machine may be busier later."""


@dataclass(frozen=True)
class Around:
    """What the time limit covers besides the search itself."""

    begin: float = field(default_factory=time.monotonic)
    """`time.monotonic()` from which it counts: before models and data were loaded."""
    handover_s: float = 0.0
    """Set aside for what follows: the export and the report."""


@dataclass(frozen=True)
class Begun:
    """The latest part of the final evaluation."""

    images: int
    """Of each that took part, those of earlier parts included."""
    ran: int
    """Images run in this part, over all members."""
    seconds: float


class TimeLimit:
    """Time used and time needed; everything is unlimited without a time limit."""

    def __init__(
        self,
        settings: SearchSettings,
        search: Search,
        capacity: int,
        around: Around,
        own: Sequence[TrialRecord] | None = None,
    ) -> None:
        """`own` are the finished trials whose time counts; all, if not given."""
        self._settings, self._search, self._capacity = settings, search, capacity
        self._around, self._limit_s = around, settings.timeout_s
        if self._limit_s is not None:
            self._limit_s -= around.handover_s
        self.reserved_s = 0.0
        """Set aside for measuring the finalists."""
        self.speed: tuple[float, float] = (0.0, 0.0)
        """Seconds that an image is expected to take, and multiply-accumulates that a fine-tune is
        taken to do in one: as found when the study was planned, and kept with it."""
        self._verifying_s = 0.0
        self._image_s = 0.0
        """As the latest part of the final evaluation took."""
        self.excluded_s = 0.0
        """Outside the limit: the start of worker processes."""
        counted = search.records if own is None else own
        self._before = float(sum(r.seconds for r in counted)) / capacity

    def elapsed(self) -> float:
        """Seconds used by this process and by those before it."""
        return self._before + time.monotonic() - self._around.begin - self.excluded_s

    def account(self) -> str:
        """Where the time limit went before the first trial, in words."""
        limit, given = self._settings.timeout_s, self._around.handover_s
        said = f"{self.elapsed():.0f} s of the time limit of {limit:g} s went into loading"
        if self.speed[0]:
            each_s = self._search.plan.few * self.speed[0]
            trial = f"{each_s:.0f} s" if each_s >= 1.0 else "less than a second"
            said += f" and a test of its speed: a first trial is expected to take {trial}"
        return f"{said}, and {given:.0f} s are set aside for export and report" if given else said

    def make_plan(self, problem: Problem, engine: Engine) -> FidelityPlan:
        """Images per fidelity and effort per fine-tune, from the speed of the uncompressed model
        scaled to the cost at the limit of the budget.

        That speed is measured where trials will run, on as many images at a time; what came of
        them is kept as the uncompressed model's tally."""
        seconds, macs_per_s, limit_s = 0.0, 0.0, self._limit_s
        macs = problem.costs.cost(problem.whole).macs
        limits = [b.limit for b in problem.budgets if b.metric == "macs"]
        at_limit = min([macs, *limits])
        if self._limit_s is not None:
            left = self._limit_s - self.elapsed() - self.reserved_s
            alone, together, tally = 0.0, 0.0, None
            if left > 0.0:
                most = problem.total_images
                most = min(most, self._settings.images_final or most)
                alone, together, tally = _seconds_per_image(
                    engine, problem, _SPEED_SHARE * left, most
                )
            seconds, macs_per_s = together * at_limit / macs, macs / max(alone, 1e-6)
            self.speed = seconds, macs_per_s
            if tally is not None:
                self._search.tallies[REFERENCE] = tally
            left = self._limit_s - self.elapsed() - self.reserved_s
            limit_s = max(_LEAST_S, left)
        return self._planned(limit_s, seconds, macs_per_s)

    def _planned(self, limit_s: float | None, seconds: float, macs_per_s: float) -> FidelityPlan:
        return fidelity_plan(
            dataclasses.replace(self._settings, timeout_s=limit_s),
            self._search.problem.total_images,
            seconds,
            promotes=self._search.builder.promotes,
            retrains=self._retrains,
            macs_per_s=macs_per_s,
            capacity=self._capacity,
        )

    @property
    def _retrains(self) -> bool:
        """Whether every trial is fine-tuned, rather than few promoted."""
        return set(self._search.problem.space.mode) == {"retrain"}

    def extended(self, plan: FidelityPlan) -> FidelityPlan:
        """The plan of a study that goes on under other limits: images per trial are as they were,
        fine-tunes as many, and each as long, as the new limits afford. The final evaluation takes
        all images where there is no time limit; else `final_images` says how many, and no more are
        set aside than the limit affords, as there may have been none before."""
        (seconds, macs_per_s), limit_s = self.speed, self._limit_s
        if limit_s is not None:
            limit_s = max(_LEAST_S, limit_s - self.elapsed() - self.reserved_s)
        anew = self._planned(limit_s, seconds or self._speed(), macs_per_s)
        final = anew.final if limit_s is None else max(plan.more, min(plan.final, anew.final))
        found = dataclasses.replace(plan, finetunes=anew.finetunes, final=final)
        if anew.finetune_s is None or not macs_per_s or self._retrains:  # its trials are compared
            return found
        return dataclasses.replace(
            found, finetune_s=anew.finetune_s, finetune_macs=anew.finetune_macs
        )

    def closes_trials(self) -> bool:
        """Whether no time is left for another trial, fine-tunes and final evaluation set aside."""
        if self._limit_s is None:
            return False
        plan, enough = self._search.plan, self._search.evaluated >= self._settings.min_trials
        reserved = (
            self._final_evaluation_s() * (plan.final if enough else plan.more) + self.reserved_s
        )
        if not self._search.evaluated:  # a first trial that leaves no time to judge it is no use
            reserved += self._speed() * plan.few
        if self._retrains:  # the next trial's own
            reserved += self._finetune_s()
        if enough and plan.finetunes and self._search.builder.promotes:
            each = self._finetune_s() + self._speed() * plan.more
            reserved += self._before_finetunes_s()
            reserved += math.ceil(plan.finetunes / self._capacity) * each
            reserved += self._speed() * plan.more  # the next trial may not take their place either
        return self.elapsed() + reserved > self._limit_s

    def closes_promotions(self, *, first: bool = False) -> bool:
        """Whether another fine-tune would eat the final evaluation's time; before the `first`,
        there is more to do."""
        if self._limit_s is None:
            return False
        plan = self._search.plan
        needed = self._finetune_s() + self._speed() * plan.more + self.reserved_s
        needed += self._final_evaluation_s() * plan.final + self._control_s()
        needed += self._before_finetunes_s() if first else 0.0
        return self.elapsed() + needed > self._limit_s

    def _before_finetunes_s(self) -> float:
        """What is to be done before the first fine-tune: seeing how fast they run, and judging the
        uncompressed model on as many images."""
        search, (_, macs_per_s) = self._search, self.speed
        paces = search.problem.pace and search.proposals.noted("finetune_room") is None
        known, whole = search.tallies.get(REFERENCE), search.problem.whole
        images = max(0, search.plan.more - (0 if known is None else known.num_images))
        macs = images * search.problem.costs.cost(whole).macs
        pace_s = search.plan.pace_s if paces else 0.0
        return pace_s + (macs / macs_per_s if macs_per_s else 0.0)

    def finetune_room(self) -> float:
        """How many times the planned effort each fine-tune can have, 1 to 4, now that trials are
        over; the random control's counts as one more."""
        plan, limit = self._search.plan, self._limit_s
        if limit is None or not plan.finetunes or not plan.finetune_s:
            return 1.0
        left = limit - self.elapsed() - self._final_evaluation_s() * plan.final - self.reserved_s
        left -= plan.finetunes * self._speed() * plan.more
        each = left / (plan.finetunes + 1)
        return min(_MOST_ROOM, max(1.0, each / (_SLACK * plan.finetune_s)))

    def expect_verifying(self, finalists: int, each_s: float) -> None:
        """Set aside what counting the finalists and the controls a second time will take."""
        self._verifying_s = (finalists + self._settings.controls) * each_s

    def final_images(
        self,
        total: int,
        begun: Begun | None,
        seen: Sequence[int],
        part: int,
        controls: Sequence[int] | None = None,
    ) -> int:
        """Images that those still racing, which have `seen` so many, have seen after a part of the
        final evaluation, from the pace of the one before.

        `controls` are the images that those not told from the best have seen, which are to see as
        many; None where they are still to come."""
        plan = self._search.plan
        if not self._fits_final_images():
            return plan.final
        least = plan.more if begun is None else begun.images
        left = self._left() - self._control_s() - self._verifying_s
        if begun is not None and begun.ran:
            self._image_s = begun.seconds / begun.ran
        pace = self._pace(len(seen))
        if controls is None:
            left -= self._settings.controls * plan.few * pace
        along = [*seen, *(controls or ())]
        images = evened(along, max(0.0, left) / (_PARTS - part) / pace)
        return max(least, min(total, images))

    def control_images(self, every: int, racing: int) -> int:
        """Images, `every` one at most, of random controls that are not told from the best."""
        seen = min(every, self._search.plan.few)
        if self._limit_s is None or not racing:
            return every
        return min(every, seen + int(max(0.0, self._left()) / self._pace(racing) / racing))

    def _pace(self, models: int) -> float:
        """Seconds an image of the final evaluation is to take, with so many models to run."""
        seconds = self._image_s or self._speed() / min(models, self._capacity)
        return _SLACK * max(seconds, 1e-9)

    @property
    def final_parts(self) -> int:
        """Parts of the final evaluation, each fitted to the time that the one before took."""
        return _PARTS if self._fits_final_images() else 1

    def _fits_final_images(self) -> bool:
        return self._limit_s is not None and self._settings.images_final is None

    def is_over(self, needed_s: float = 0.0) -> bool:
        """Whether the time limit is used up, or would be before half of what needs so long."""
        return self._limit_s is not None and self._left() <= 0.5 * needed_s

    def _left(self) -> float:
        assert self._limit_s is not None
        return self._limit_s - self.elapsed()

    def _control_s(self) -> float:
        """A random control is fine-tuned as well where the best is."""
        best = self._search.best()
        return self._finetune_s() if best is not None and best.tuned is not None else 0.0

    def _finetune_s(self) -> float:
        """Of one fine-tune: as planned, then as seen."""
        done = [r.tuned["seconds"] for r in self._search.records if r.tuned is not None]
        seen = max(done, default=self._search.plan.finetune_s or 0.0)
        return _SLACK * float(seen)

    def _final_evaluation_s(self) -> float:
        """Per image."""
        count = members(self._settings, len(self._search.front()))
        return _SLACK * count * self._speed() / min(count, self._capacity)

    def _speed(self) -> float:
        """Seconds per image over the trials so far, fine-tunes apart; before them as planned."""
        done = [r for r in self._search.records if r.score is not None and r.state == "complete"]
        done = [r for r in done if r.tuned is None]
        images = sum(r.score.num_images for r in done if r.score is not None)
        return sum(r.seconds for r in done) / images if images else self.speed[0]


def evened(seen: Sequence[int], more: float) -> int:
    """Images that all have once `more` were run, where those with the fewest catch up first."""
    ordered, spent = sorted(seen), 0.0
    for count, (few, next_few) in enumerate(itertools.pairwise(ordered), start=1):
        if spent + count * (next_few - few) > more:
            return few + int((more - spent) / count)
        spent += count * (next_few - few)
    return ordered[-1] + int((more - spent) / len(ordered))


def own_trials(notes: Proposals, run: str, *, joins: bool) -> list[TrialRecord]:
    """The finished trials of a run, whose turn at a study that runs may share begins here.

    The study notes each turn and its first trial; one of an earlier version has none noted, and
    its trials are those of whoever `joins` nothing.
    """
    turns: list[list[Any]] = list(notes.noted("turns") or ())
    if not turns or turns[-1][0] != run:
        after = max((r.number + 1 for r in notes.records), default=0)
        turns.append([run, after if turns or joins else 0])
        notes.note("turns", turns)
    starts = [first for _, first in turns]
    whose = {r.number: bisect.bisect_right(starts, r.number) - 1 for r in notes.records}
    return [r for r in notes.records if whose[r.number] >= 0 and turns[whose[r.number]][0] == run]


def _seconds_per_image(
    engine: Engine, problem: Problem, most_s: float, total: int
) -> tuple[float, float, TallyLike | None]:
    """(seconds that a worker takes for an image of the uncompressed model alone, and among many,
    while the others are as busy; the tally of the images that took).

    Of the first `total`, images go one by one until `most_s` are spent, then many at once if as
    many at that pace fit in.
    """
    begin, tally, done, each, alone = time.monotonic(), None, 0, 1, 0.0
    spent: list[float] = []
    while done < total and each:
        starts = range(done, min(total, done + engine.capacity * each), each)
        for start in starts:
            engine.submit(Job(REFERENCE, problem.whole, start, min(total, start + each)))
        outcomes = sorted((engine.collect() for _ in starts), key=lambda o: o.job.start)
        for outcome in outcomes:
            if outcome.tally is None:  # its trials will say why
                slowest = max([outcome.seconds / each, *spent])
                return slowest, slowest, None
            tally = outcome.tally if tally is None else tally + outcome.tally
        done = min(total, done + engine.capacity * each)
        pace = fmean(o.seconds / (o.job.stop - o.job.start) for o in outcomes)
        if each > 1:
            return alone, min(alone, pace), tally
        spent.append(pace)
        alone = fmean(spent[1:] or spent)
        left_s = most_s - (time.monotonic() - begin)
        if left_s <= 0.0:
            break
        if len(spent) == _SPEED_IMAGES:
            each = _SPEED_BATCH if _SPEED_BATCH * alone <= left_s else 0
    return alone, alone, tally
