"""What fine-tuning bought: the same configuration plugged in and retrained, image by image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from autotok.evaluation.paired import Paired, compare, image_values
from autotok.plain_data import Kept, plain_fields

from .record import TrialRecord

HELPED = "fine-tuning helped"
SUFFICES = "plug-in suffices (within noise)"
HURT = "fine-tuning hurt"
UNKNOWN = "not compared"
_VERDICTS = {"better": HELPED, "tie": SUFFICES, "worse": HURT}


@dataclass(frozen=True)
class TuningGain(Kept):
    """One retrained configuration against itself without the retraining."""

    number: int
    config_id: str
    method: str
    macs_g: float | None
    seconds: float
    """That the fine-tune took."""
    steps: int
    num_trained: int
    """Images it saw, repetitions counted."""
    plugged: float | None = None
    """Quality without retraining, over the images of `gain`; in % or as KL divergence."""
    tuned: float | None = None
    """Quality with it, over the same images."""
    gain: Paired | None = None
    """Fine-tuned minus plug-in."""
    base: int | None = None
    """The plug-in trial that it came from, if there was one."""

    @property
    def minutes(self) -> float:
        """That the fine-tune took."""
        return self.seconds / 60.0

    @property
    def per_minute(self) -> float | None:
        """Gain per minute of fine-tuning."""
        if self.gain is None or self.seconds <= 0.0:
            return None
        return self.gain.difference / self.minutes

    @property
    def verdict(self) -> str:
        """'fine-tuning helped', 'plug-in suffices (within noise)', 'fine-tuning hurt' or
        'not compared'."""
        return UNKNOWN if self.gain is None else _VERDICTS[self.gain.verdict]

    def columns(self) -> dict[str, Any]:
        """As columns of pareto.csv."""
        found: dict[str, Any] = {"plugged": self.plugged, "tuning_verdict": self.verdict}
        if self.gain is not None:
            found["tuning_gain"] = round(self.gain.difference, 6)
            found["tuning_gain_low"] = round(self.gain.low, 6)
            found["tuning_gain_high"] = round(self.gain.high, 6)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the verdict included."""
        further = {"per_minute": self.per_minute, "verdict": self.verdict}
        return {**plain_fields(self), **further}


def tuning_gain(record: TrialRecord) -> TuningGain | None:
    """The gain of one trial; None if it was not fine-tuned."""
    if record.tuned is None:
        return None
    gain = compare(record.tally, record.untuned)
    common = 0 if gain is None else gain.num_images
    return TuningGain(
        number=record.number,
        config_id="" if record.config is None else record.config.config_id,
        method="" if record.config is None else record.config.method,
        macs_g=None if record.costs is None else record.costs.macs / 1e9,
        seconds=float(record.tuned.get("seconds", 0.0)),
        steps=int(record.tuned.get("steps", 0)),
        num_trained=int(record.tuned.get("images", 0)),
        plugged=_over(record.untuned, common),
        tuned=_over(record.tally, common),
        gain=gain,
        base=record.base,
    )


def tuning_gains(records: Iterable[TrialRecord]) -> tuple[TuningGain, ...]:
    """Of every fine-tuned trial, cheapest first; the first record of a number counts."""
    found: dict[int, TuningGain] = {}
    for record in records:
        gain = tuning_gain(record) if record.number not in found else None
        if gain is not None:
            found[record.number] = gain
    return tuple(sorted(found.values(), key=lambda g: (g.macs_g or 0.0, g.number)))


def _over(tally: Mapping[str, Any] | None, count: int) -> float | None:
    """The quality over the first `count` images."""
    if tally is None or count == 0:
        return None
    values = image_values(tally)[:count]
    if values:
        return float(sum(values) / count)
    return 100.0 * str(tally["hits"])[:count].count("1") / count
