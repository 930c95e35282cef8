"""The race of the final evaluation: images go to those that may still be the best.

All run on the same images in the same order, so that two are compared image by image
(`evaluation.paired`) over those that both have seen. What is told from the best takes no more of
them, and no more than the better half goes on, so that the last images, most of them, go to two or
three. After F-Race (Birattari et al., "A racing algorithm for configuring metaheuristics", GECCO
2002), with paired tests against the best alone, and sequential halving (Karnin et al., "Almost
optimal exploration in multi-armed bandits", ICML 2013).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Sequence

import numpy as np

from autotok.evaluation.paired import compare
from autotok.facts import BackboneFacts
from autotok.metrics import METRICS, ON_DEVICE
from autotok.searching.records.comparison import decided_by_quality, judged_alike
from autotok.searching.records.objective import Objective, losses
from autotok.searching.records.pareto import Front, best_of, thin
from autotok.searching.records.record import Score, TrialRecord

from .loop import REFERENCE, Search

_LOG = logging.getLogger(__name__)
_CONFIDENCE = 0.9
"""Of what leaves: less than the 95 % of a verdict, as it is only about where images go."""


def in_question(
    records: Sequence[TrialRecord], objectives: Sequence[Objective], best: TrialRecord | None
) -> list[bool]:
    """Which of the records are not told from the best yet, itself included.

    Where the first objective is no quality, images do not decide and all stay.
    """
    if best is None or not decided_by_quality(best, objectives):
        return [True] * len(records)
    return [_may_be_as_good(record, best, objectives) for record in records]


def goes_on(
    records: Sequence[TrialRecord], objectives: Sequence[Objective], best: TrialRecord | None
) -> list[bool]:
    """Which of the records run further images: of those in question the better half, two at least,
    and the best so far.

    The uncompressed model, and what keeps no outcomes per image, go on beside them.
    """
    stay = in_question(records, objectives, best)
    if best is None or not decided_by_quality(best, objectives):
        return stay
    racing = [
        i
        for i, (record, stays) in enumerate(zip(records, stay, strict=True))
        if stays and not is_whole(record) and compare(best.tally, record.tally) is not None
    ]
    order = [racing[at] for at in _among_ties([records[i] for i in racing], objectives)]
    left = set(order[max(2, math.ceil(len(order) / 2)) :])
    return [stays and (i not in left or records[i] is best) for i, stays in enumerate(stay)]


def recommended(
    records: Sequence[TrialRecord], objectives: Sequence[Objective], least: float | None = None
) -> TrialRecord | None:
    """What is called best, of those that reach the `least` quality where any does: of the records
    that images do not tell from the best by the first objective, the one nearest the uncompressed
    model (`_among_ties`)."""
    records = [r for r in records if r.score is not None and _reaches(r.score, least)] or records
    best = best_of(records, objectives)
    if best is None or best.divergence is None or not decided_by_quality(best, objectives):
        return best
    tied = [r for r in records if r is best or _is_tie(r, best)]
    return tied[_among_ties(tied, objectives)[0]]


def final_front(records: Sequence[TrialRecord], objectives: Sequence[Objective]) -> Front:
    """Those that no other dominates, neither by its own figures nor over the images of both: a mean
    over few images that happens to lie above one over more is no reason to cost more. Of those that
    cost the same and answered every image alike, as under an option that changes nothing, one."""
    members = Front(objectives, records).records
    judged = {METRICS[r.score.metric].column for r in members if r.score is not None}
    columns = [i for i, o in enumerate(objectives) if o.name not in judged]
    if len(columns) == len(objectives):
        return Front(objectives, members)
    points = losses([r.values for r in members], objectives)
    costs, kept, numbers = points[:, columns], list[int](), [r.number for r in members]
    for at in np.lexsort(
        (numbers, *points.T, *costs.T[::-1])
    ).tolist():  # what comes later costs no less
        below = [k for k in kept if (costs[k] <= costs[at]).all()]
        if not any(
            _as_good(members[k], members[at], cheaper=bool((costs[k] < costs[at]).any()))
            for k in below
        ):
            kept.append(at)
    return Front(objectives, [members[at] for at in kept])


def _as_good(record: TrialRecord, other: TrialRecord, *, cheaper: bool) -> bool:
    """Whether it is better over the images of both, or as good where it is `cheaper`; or the same
    to the bit."""
    found = compare(record.tally, other.tally)
    if found is None or found.difference != 0.0:
        return found is not None and found.difference > 0.0
    return cheaper or record.tally == other.tally


def _is_tie(record: TrialRecord, best: TrialRecord) -> bool:
    """Whether a record is not told from the best, and may take its place."""
    found = compare(best.tally, record.tally) if judged_alike(record, best) else None
    return found is not None and found.verdict == "tie"


def _among_ties(records: Sequence[TrialRecord], objectives: Sequence[Objective]) -> list[int]:
    """The order in which records that images do not tell apart are preferred: by their divergence
    from the uncompressed model, where all have one, from the same, else by the objectives.

    Right or wrong is one bit of an image; how far all probabilities have moved is much more, and
    tells by some ten images what right or wrong tells by hundreds (studies/regret).
    """
    points = losses([r.values for r in records], objectives).tolist()
    apart = [r.divergence for r in records if r.divergence is not None]
    if len(apart) < len(records) or len({r.backbone for r in records}) > 1:
        apart = [0.0] * len(records)  # which says nothing
    numbers = [record.number for record in records]
    keys = zip(apart, points, numbers, range(len(records)), strict=True)
    return [at for *_, at in sorted(keys)]


def is_whole(record: TrialRecord) -> bool:
    """Whether it is an uncompressed model, the first backbone's or another's."""
    return record.number == REFERENCE or record.origin == "reference"


def _may_be_as_good(
    record: TrialRecord, best: TrialRecord, objectives: Sequence[Objective]
) -> bool:
    if record.score is None or record.state == "failed":
        return False
    own, other = losses([record.values, best.values], objectives[:1])[:, 0].tolist()
    if record.measured and own <= other:
        return True
    found = compare(best.tally, record.tally, confidence=_CONFIDENCE)
    return found is None or found.verdict != "better"  # of the best, that is


def finalists(
    search: Search, without: Collection[int] = ()
) -> tuple[list[TrialRecord], list[TrialRecord]]:
    """(who runs, measured where a device is at hand; what that showed to be outside).

    Those are the front of all trials but `without`, thinned, its extremes with the best quality
    among them, and as many again that are not told from that best by the images so far. Left out is
    what is of no use: not told from guessing, or worse than the least quality asked for.

    Raises:
        DeviceUnreachable: the device does not answer.
    """

    def choose(records: list[TrialRecord]) -> list[TrialRecord]:
        front = Front(search.objectives, records).records
        if not front:
            return []
        size = search.settings.front_size
        points = losses([r.values for r in front], search.objectives)
        chosen = [front[i] for i in thin(points, size)]
        return chosen + challengers(chosen, records, search.objectives, beside * size)

    problem, least = search.problem, search.settings.min_quality
    # what a device measures, or only it can tell, is too dear for a hunch
    asked = {o.name for o in search.objectives} | {b.metric for b in problem.budgets}
    beside = int(asked.isdisjoint(ON_DEVICE) and not search.corrections.active)
    pool = [r for r in search.candidates if r.number not in without]
    useful = [r for r in pool if is_of_use(r.score, problem.facts_of(r.backbone), least)]
    if pool and not useful:
        asked_for = "told from guessing" if least is None else f"of the least quality, {least:g}"
        _LOG.warning("nothing evaluated is %s: the final evaluation runs what there is", asked_for)
    pool = useful or pool
    return search.corrections.settle(pool, choose)


def challengers(
    front: Sequence[TrialRecord],
    records: Sequence[TrialRecord],
    objectives: Sequence[Objective],
    most: int,
) -> list[TrialRecord]:
    """Records beside the front, at most so many, that are not told from its best, those first that
    are preferred among ties."""
    best = best_of(front, objectives)
    if best is None or not decided_by_quality(best, objectives):
        return []
    inside = {r.number for r in front}
    others = [r for r in records if r.number not in inside and r.measured and r.tally is not None]
    asked = in_question(others, objectives, best)
    close = [
        record
        for record, may in zip(others, asked, strict=True)
        if may and compare(best.tally, record.tally) is not None
    ]
    return [close[at] for at in _among_ties(close, objectives)[:most]]


def _reaches(score: Score, least: float | None) -> bool:
    if least is None:
        return True
    better = METRICS[score.metric].higher_is_better
    return score.value >= least if better else score.value <= least


def is_of_use(score: Score | None, facts: BackboneFacts, least: float | None) -> bool:
    """Whether a quality is told from guessing, and no worse than the least that was asked for."""
    if score is None:
        return True
    better = METRICS[score.metric].higher_is_better
    if not _reaches(score, least):
        return False
    guessing = METRICS[score.metric].guessing(facts.num_classes)
    if guessing is None:
        return True
    return score.low > guessing if better else score.high < guessing
