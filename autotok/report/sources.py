"""Where latency and memory figures come from: predicted (and how well checked) or measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from autotok.metrics import METRICS, PREDICTED, Metric
from autotok.predicting.predict import conditions, num_checked, provenance
from autotok.predicting.target import load_target
from autotok.searching.records.record import CORRECTED_BY, MEASURED, TrialRecord, foretold

NOWHERE: Mapping[str, int] = MappingProxyType({})
NOTHING: Mapping[str, Any] = MappingProxyType({})
ALLOWED_PCT = 10.0
"""Disagreement that a target which states no error is allowed."""


@dataclass(frozen=True)
class Sources:
    """What the figures of a table are, for its headings."""

    latency: str = "predicted"
    """Of those that were not measured: 'predicted for jetson-nx, checked to 4.1 %'."""
    memory: str = "predicted"
    measured: str = MEASURED
    """Of the others: 'measured on ssh://me@board'."""
    energy: str = "predicted from the power measured"

    @classmethod
    def of(
        cls,
        target: str | None,
        predictions: Iterable[Mapping[str, Any]],
        measuring: Mapping[str, Any],
        *,
        points: Mapping[str, int] = NOWHERE,
    ) -> Sources:
        """The sources of a run.

        Args:
            target: Its target's name, with runtime and number format.
            predictions: What was predicted for some of its configurations, errors among it.
            measuring: `DeviceCorrections.summary()`.
            points: How many latency and memory were checked at, where that is known.
        """
        some = next((p for p in predictions if p), {})
        device = _device(measuring)
        words = dict.fromkeys((METRICS[m].aspect for m in PREDICTED), "predicted")
        if target is not None:
            for aspect in words:
                error, count = some.get(f"{aspect}_error_pct"), points.get(aspect, 0)
                told = foretold(error).replace(",", f" for {target},", 1)
                at = f" at {count} points" if count > 1 else " at 1 point" if count else ""
                words[aspect] = told if error is None else told + at
                formats, by = _corrected(measuring).get(aspect, ()), f"{CORRECTED_BY}{device}"
                if "float32" in formats:
                    words[aspect] = f"predicted for {target}, {by}"
                elif formats:
                    words[aspect] += f", {' and '.join(formats)} {by}"
        told = f"{MEASURED}{device}"
        return cls(words["latency"], words["memory"], told)

    def heading(self, metric: Metric, origins: Sequence[str]) -> str:
        """A column's heading: the one source of its figures, or both where rows differ."""
        name, predicted = f"{metric.label} {metric.unit}", getattr(self, metric.aspect)
        kinds = {origin for origin in origins if origin}
        if kinds == {MEASURED}:
            return f"{name} ({self.measured})"
        more = f"; or {self.measured}" if MEASURED in kinds else ""
        if more:  # which says where
            where = self.measured.removeprefix(MEASURED)
            predicted = predicted.replace(f"{CORRECTED_BY}{where}", CORRECTED_BY)
        return f"{name} ({predicted}{more})"


def device_sentences(
    target_standing: str | None, measuring: Mapping[str, Any] | None = None
) -> list[str]:
    """What a run's latency and memory figures rest on; nothing without a target or device.

    Args:
        target_standing: What stands behind the target's predictions, in words.
        measuring: `DeviceCorrections.summary()`: what was measured, and how predictions compare.
    """
    measuring = measuring or {}
    if not measuring:
        if target_standing is None:
            return []
        return [f"Latency and memory are predictions, not measurements: {target_standing}."]
    count = int(measuring.get("num_measured") or 0)
    what = ", ".join(str(measuring[k]) for k in ("device", "runtime", "dtype") if measuring.get(k))
    lines = [
        f"{count} configurations were measured on {what}: rows marked '{MEASURED}'."
        if count
        else "Nothing could be measured on the device."
    ]
    if target_standing is not None:
        lines[0] = f"{lines[0][:-1]}; the other figures are predictions: {target_standing}."
    for metric in measuring.get("ratios", {}):
        lines.append(_agreement(metric, measuring))
    for name, ratios in (measuring.get("over_float32") or {}).items():
        lines.append(_over_float32(name, sorted(ratios)))
    failures = list(measuring.get("failures") or ())
    if failures:
        which = "1 configuration" if len(failures) == 1 else f"{len(failures)} configurations"
        lines.append(f"{which} could not be measured: {failures[0]}.")
    return lines


def device_notes(
    target: str | None, measuring: Mapping[str, Any], batch: int | None = None
) -> list[str]:
    """What latency and memory figures of a run rest on; nothing without a target or device."""
    behind = None if target is None else provenance(load_target(target), batch=batch)
    if target is not None and (again := corrected_in_words(measuring)):
        behind = f"{_named(target)}, {again}"
    lines = device_sentences(behind, measuring)
    if lines and batch is not None:
        lines.append(f"They are those of {batch} images at a time.")
    return lines


def sources_of(
    target: str | None,
    records: Sequence[TrialRecord],
    measuring: Mapping[str, Any],
    batch: int | None = None,
) -> Sources:
    """The same for the headings of a table."""
    predictions = [record.predicted for record in records]
    if target is None:
        return Sources.of(None, predictions, measuring)
    known = load_target(target)
    points = {what: num_checked(known, what, batch) for what in ("latency", "memory")}
    name = f"{known.name}, {conditions(known)}"
    return Sources.of(name, predictions, measuring, points=points)


def predicted_for(
    target: str | None, measuring: Mapping[str, Any] = NOTHING, batch: int | None = None
) -> dict[str, Any] | None:
    """Target, runtime, number format and images at a time that a run's predictions are of, and how
    they were checked, or what the run corrected, as plain data."""
    if target is None:
        return None
    known, again = load_target(target), corrected_in_words(measuring)
    batch = batch or known.default_batch
    told = {"corrected": again} if again else {"checked": provenance(known, batch=batch)}
    return {"target": known.name, "of": conditions(known), "batch": batch, **told}


def _named(target: str) -> str:
    known = load_target(target)
    return f"target {known.name}, {conditions(known)}"


def _device(measuring: Mapping[str, Any]) -> str:
    """' on ssh://me@board'; '' where nothing was measured."""
    device = str(measuring.get("device") or "").split(" (")[0]
    return f" on {device}" if device else ""


def _corrected(measuring: Mapping[str, Any]) -> dict[str, list[str]]:
    """Number formats of whose latency, or memory, predictions were corrected."""
    found: dict[str, list[str]] = {}
    for name in measuring.get("corrections") or {}:
        metric, _, number_format = name.partition(" ")
        found.setdefault(METRICS[metric].aspect, []).append(number_format or "float32")
    return found


def corrected_in_words(measuring: Mapping[str, Any]) -> str:
    """'corrected by what was measured on ssh://me@board (latency times 1.30)'; '' where nothing
    was."""
    parts = []
    for name, factor in (measuring.get("corrections") or {}).items():
        metric, _, number_format = name.partition(" ")
        of = f" of {number_format} files" if number_format else ""
        parts.append(f"{METRICS[metric].label}{of} times {factor:.2f}")
    return f"{CORRECTED_BY}{_device(measuring)} ({', '.join(parts)})" if parts else ""


def _over_float32(name: str, ratios: Sequence[float]) -> str:
    """What a number format made of the latency, in one sentence; `ratios` rise."""
    middle = ratios[len(ratios) // 2]
    told = f"{name} files took {middle:.2f} times the latency of float32 ones"
    if middle >= 1.0:
        told = (
            f"{name.upper()} IS NO FASTER HERE: its files took {middle:.2f} times float32's latency"
        )
    spread = f" ({ratios[0]:.2f} to {ratios[-1]:.2f} over {len(ratios)})" if ratios[1:] else ""
    return f"{told}, same configuration{spread}."


def _agreement(metric: str, measuring: Mapping[str, Any]) -> str:
    """Measured against predicted, and what the run made of it, in one sentence."""
    ratios = sorted(measuring["ratios"][metric])
    middle, word = ratios[len(ratios) // 2], METRICS[metric].label
    factor = (measuring.get("corrections") or {}).get(metric)
    stated = (measuring.get("stated_error_pct") or {}).get(metric)
    allowed = (
        f"the {ALLOWED_PCT:g} % allowed a target that was never checked"
        if stated is None
        else f"the {stated:.1f} % that the target states"
    )
    spread = f" ({ratios[0]:.2f} to {ratios[-1]:.2f} over {len(ratios)})" if ratios[1:] else ""
    if factor is None:
        told = f"Measured {word} is {middle:.2f} times the predicted{spread}"
        return f"{told}, within {allowed}: nothing was corrected."
    return (
        f"PREDICTIONS WERE OFF: measured {word} is {factor:.2f} times the predicted{spread}, beyond"
        f" {allowed}; the predictions of this run were multiplied by {factor:.2f}."
    )
