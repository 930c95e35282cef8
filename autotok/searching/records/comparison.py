"""What of the final evaluation is more than noise: configurations compared image by image.

Everything here is worked out from the tallies that the records keep; records without outcomes per
image are left uncompared. The intervals are per comparison: they do not correct for the best having
been chosen, on the same images, as the highest of several.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from autotok.documents import Place
from autotok.evaluation.paired import Paired, compare
from autotok.metrics import METRICS
from autotok.plain_data import Kept, plain_fields, typed
from autotok.searching.records.final import Final

from .finetune_gain import TuningGain, tuning_gains
from .objective import Objective
from .pareto import best_of
from .record import TrialRecord

_CHEAPER = 0.98
"""Share of the best's cost from which on a configuration counts as costing as much."""


@dataclass(frozen=True)
class Standing(Kept):
    """One configuration of the final evaluation, compared over the same images with others."""

    number: int
    config_id: str
    role: str
    """'best', 'front', 'control', 'smaller image', 'other backbone' or 'reference'."""
    method: str
    macs_g: float | None = None
    finetuned: bool = False
    share_of_best: float | None = None
    """Its multiply-accumulates over those of the best."""
    against_reference: Paired | None = None
    """This one minus its backbone uncompressed; positive, as all are, where this one is better."""
    against_best: Paired | None = None
    against_next: Paired | None = None
    next_number: int | None = None
    """Trial of `against_next`: the runner-up of the best; of others, the next cheaper one."""
    backbone: str = ""
    """Where several were searched."""
    divergence: float | None = None
    """From the uncompressed model, where it may choose between this one and the best: judged on the
    same images, of the same backbone, the first objective a quality."""
    details: str = ""
    """Beside its method: number format, image size and exits, where these are not the usual."""

    @property
    def is_cheaper_tie(self) -> bool:
        """Whether it costs less than the best and noise alone separates the two."""
        return (
            self.role == "front"
            and self.against_best is not None
            and self.against_best.verdict == "tie"
            and self.share_of_best is not None
            and self.share_of_best <= _CHEAPER
        )

    @property
    def words(self) -> str:
        """How it stands, such as 'tie with the best at 54 % of its cost'; '' if not compared."""
        if self.role == "best":
            if self.against_next is None:
                return ""
            known = {"better": "ahead of", "worse": "behind", "tie": "tie with"}
            return f"{known[self.against_next.verdict]} the runner-up"
        if self.against_best is None:
            return ""
        if self.against_best.verdict == "tie":
            return f"tie with the best{_at_cost(self.share_of_best)}"
        return f"{self.against_best.verdict} than the best"

    def columns(self) -> dict[str, Any]:
        """As columns of pareto.csv."""
        found: dict[str, Any] = {"standing": self.words}
        for name in ("reference", "best", "next"):
            paired: Paired | None = getattr(self, f"against_{name}")
            if paired is not None:
                key = f"vs_{'uncompressed' if name == 'reference' else name}"
                found[key] = round(paired.difference, 6)
                found[f"{key}_low"], found[f"{key}_high"] = (
                    round(paired.low, 6),
                    round(paired.high, 6),
                )
                found[f"{key}_p"], found[f"{key}_verdict"] = paired.p_value, paired.verdict
        if self.next_number is not None:
            found["next_number"] = self.next_number
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the words included."""
        return {**plain_fields(self), "words": self.words}


@dataclass(frozen=True)
class Comparisons:
    """All standings of a final evaluation, and what fine-tuning bought."""

    standings: tuple[Standing, ...] = ()
    """Best, front (costliest first), controls, the one on smaller images, other backbones,
    reference."""
    tuning: tuple[TuningGain, ...] = ()

    def of(self, number: int | None) -> Standing | None:
        """The standing of a trial."""
        return next((s for s in self.standings if s.number == number), None)

    @property
    def best(self) -> Standing | None:
        """The recommended configuration's."""
        return next((s for s in self.standings if s.role == "best"), None)

    @property
    def runner_up(self) -> Standing | None:
        """Whom the best is compared with."""
        return None if self.best is None else self.of(self.best.next_number)

    @property
    def ties(self) -> tuple[Standing, ...]:
        """On the front, not told from the best by quality and farther from the uncompressed model;
        none where one is nearer, so that this did not choose."""
        near = None if self.best is None else self.best.divergence
        found = tuple(
            s
            for s in self.standings
            if s.role == "front" and s.against_best is not None and s.against_best.verdict == "tie"
            if s.divergence is not None
        )
        chose = near is not None and all((s.divergence or 0.0) >= near for s in found)
        return found if chose else ()

    @property
    def cheaper_ties(self) -> tuple[Standing, ...]:
        """On the front, cheaper than the best and not told from it; cheapest first."""
        found = [s for s in self.standings if s.is_cheaper_tie]
        return tuple(sorted(found, key=lambda s: s.share_of_best or 0.0))

    def columns(self, record: TrialRecord) -> dict[str, Any]:
        """Further columns of a record's row in pareto.csv."""
        found = self.of(record.number)
        columns = {} if found is None else found.columns()
        gain = next((g for g in self.tuning if g.number == record.number), None)
        return columns if gain is None else {**columns, **gain.columns()}

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for pareto.json."""
        return plain_fields(self)

    @classmethod
    def from_dict(cls, data: object, where: Place | str = "comparisons") -> Comparisons:
        """The inverse of `to_dict`; empty for a run that was written without any."""
        return typed(cls, data or {}, where, newer=True)


def compare_front(
    final: Final, objectives: Sequence[Objective] = (), records: Iterable[TrialRecord] = ()
) -> Comparisons:
    """Every configuration of the final evaluation against the best, the uncompressed model and its
    neighbour.

    Args:
        final: The final evaluation; its records keep their tallies.
        objectives: The first one chooses the runner-up; the quality does where there are none.
        records: Further trials whose fine-tuning counts, beside those of the front.
    """
    best, front = final.best, sorted(final.front, key=_macs, reverse=True)
    others = [r for r in front if best is None or r.number != best.number]
    placed = [] if best is None else [("best", best, _runner_up(best, others, final, objectives))]
    placed += [("front", r, _next_cheaper(r, front)) for r in others]
    placed += [("control", r, None) for r in final.controls]
    placed += [] if final.smaller_image is None else [("smaller image", final.smaller_image, None)]
    placed += [("other backbone", r, None) for r in final.others]
    placed += [] if final.reference is None else [("reference", final.reference, None)]
    standings = tuple(_standing(role, r, final, other) for role, r, other in placed)
    if best is not None:
        chosen = decided_by_quality(best, objectives)
        rivals = {r.number for r in front if chosen and judged_alike(r, best)}
        standings = tuple(
            s if s.number in rivals else dataclasses.replace(s, divergence=None) for s in standings
        )
    return Comparisons(standings, tuning_gains([*final.front, *records]))


def decided_by_quality(best: TrialRecord, objectives: Sequence[Objective]) -> bool:
    """Whether the first objective is the quality that the best was judged by, or there is none."""
    if best.score is None:
        return False
    return all(o.name == METRICS[best.score.metric].column for o in objectives[:1])


def judged_alike(record: TrialRecord, best: TrialRecord) -> bool:
    """Whether divergences of two records can be held against each other: both have one, of the same
    backbone and on as many images."""
    if record.divergence is None or best.divergence is None or record.backbone != best.backbone:
        return False
    return (
        record.score is not None
        and best.score is not None
        and (record.score.num_images == best.score.num_images)
    )


def _standing(role: str, record: TrialRecord, final: Final, other: TrialRecord | None) -> Standing:
    best, reference = final.best, final.uncompressed(record.backbone)
    next_to = None if other is None else compare(record.tally, other.tally)
    return Standing(
        number=record.number,
        config_id="" if record.config is None else record.config.config_id,
        role=role,
        method="" if record.config is None else record.config.method,
        backbone=record.backbone,
        divergence=record.divergence,
        details=record.details.removeprefix("fine-tuned").removeprefix(", "),
        macs_g=None if record.costs is None else record.costs.macs / 1e9,
        finetuned=record.tuned is not None,
        share_of_best=_macs(record) / _macs(best) if best is not None and _macs(best) else None,
        against_reference=_against(record, reference),
        against_best=_against(record, best),
        against_next=next_to,
        next_number=None if next_to is None or other is None else other.number,
    )


def _against(record: TrialRecord, other: TrialRecord | None) -> Paired | None:
    if other is None or other.number == record.number:
        return None
    return compare(record.tally, other.tally)


def _runner_up(
    best: TrialRecord, others: Sequence[TrialRecord], final: Final, objectives: Sequence[Objective]
) -> TrialRecord | None:
    """The next of the front by the first objective; where there is no other, the best control.

    Where that is the quality, the one that comes nearest over the same images as the best: whoever
    left the race early was judged on fewer.
    """
    rivals = [r for r in others if r.score is not None]
    rivals = rivals or [r for r in final.controls if r.measured]
    if not rivals:
        return None
    judged = None if best.score is None else METRICS[best.score.metric]
    if not objectives or (judged is not None and objectives[0].name == judged.column):
        rivals = _nearest(best, rivals)
    if objectives:
        return best_of(rivals, objectives)
    more = judged is None or judged.higher_is_better
    return min(rivals, key=lambda r: -_quality(r) if more else _quality(r))


def _nearest(best: TrialRecord, rivals: list[TrialRecord]) -> list[TrialRecord]:
    """Those that come nearest to the best over the same images; all of them where all were judged
    on as many, or some were not compared so."""
    pairs = [compare(r.tally, best.tally) for r in rivals]
    gaps = [paired.difference for paired in pairs if paired is not None]
    images = {0 if r.score is None else r.score.num_images for r in rivals}
    if len(images) == 1 or len(gaps) < len(rivals):
        return rivals
    return [r for r, gap in zip(rivals, gaps, strict=True) if gap == max(gaps)]


def _next_cheaper(record: TrialRecord, front: Sequence[TrialRecord]) -> TrialRecord | None:
    """Its neighbour below in cost: whether the difference in cost buys anything."""
    below = [r for r in front if _macs(r) < _macs(record)]
    return max(below, key=_macs, default=None)


def _at_cost(share: float | None) -> str:
    if share is None:
        return ""
    if abs(share - 1.0) < 1.0 - _CHEAPER:
        return " at about its cost"
    return f" at {100 * share:.0f} % of its cost"


def _macs(record: TrialRecord) -> int:
    return 0 if record.costs is None else record.costs.macs


def _quality(record: TrialRecord) -> float:
    return 0.0 if record.score is None else record.score.value
