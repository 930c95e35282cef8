"""`TrialRecord`: one configuration with everything known about it, and its row in a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from autotok.config import CompressionConfig, Primitive
from autotok.counting.cost import Cost
from autotok.devices.measurement import memory_alone
from autotok.documents import parse_json
from autotok.metrics import METRICS, ON_DEVICE, PREDICTED, Metric
from autotok.names import known
from autotok.plain_data import Kept, plain_fields

VERSION = 1
MEASURED = "measured"
CORRECTED_BY = "corrected by what was measured"


@dataclass(frozen=True)
class Score:
    """A quality figure: metric, value, 95 % interval and the images it rests on."""

    metric: str
    value: float
    low: float
    high: float
    num_images: int
    finetuned: bool = False
    top1_pct: float | None = None
    agreement_pct: float | None = None
    kl: float | None = None
    feature_pct: float | None = None
    knn_pct: float | None = None
    knn_top1_pct: float | None = None
    own: float | None = None
    own_loss: float | None = None
    macs_mean: float | None = None
    """Multiply-accumulates of an image over those images, where they differ between images."""
    macs_std: float | None = None
    macs_noattn_mean: float | None = None

    def __post_init__(self) -> None:
        known("metric", self.metric, METRICS)


@dataclass(frozen=True)
class TrialRecord(Kept):
    """What one trial found; flat enough for one JSON line."""

    number: int
    """Logical trial number: counts trials, however often the study was resumed."""
    state: str
    """'complete', 'infeasible', 'failed', 'duplicate' or 'running'."""
    config: CompressionConfig | None
    """What was judged, thresholds that were found included; until then, what is to be."""
    layers: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()
    """Patch tokens left after each reduction layer."""
    costs: Cost | None = None
    """Once judged, the mean over the images where token counts differ between them."""
    predicted: Mapping[str, float] = field(default_factory=dict)
    """Metrics on the target by name, when asked for, and the errors that it states."""
    score: Score | None = None
    fidelity: str = ""
    """'few', 'more' or 'final'."""
    feasible: bool = True
    violation: float = 0.0
    """How far outside the budget, as a share of it; 0 or less holds."""
    params: Mapping[str, Primitive] = field(default_factory=dict)
    origin: str = "sampler"
    """'warm-start', 'sampler', 'random', 'control' or 'smaller image'."""
    seed: int = 0
    seconds: float = 0.0
    tally: Mapping[str, Any] | None = None
    """Sums behind the score, so that more images can be added later."""
    reason: str = ""
    duplicate_of: int | None = None
    stopped: str = ""
    """Where on the fidelity ladder it was stopped, and why."""
    base: int | None = None
    """The trial whose configuration this one retrains, if it was promoted from one."""
    tuned: Mapping[str, Any] | None = None
    """What its fine-tune did: steps, images, seconds, loss (`problem.Tuned`)."""
    untuned: Mapping[str, Any] | None = None
    """Tally of the same configuration plugged in, over the first images, as far as it was run."""
    macs_counted: int | None = None
    """By the independent counter, as `costs` of as many images; filled in for what is reported."""
    within_budget: bool | None = None
    reading: Mapping[str, Any] | None = None
    """Its measurement on a device (`Measurement.to_dict()`); `predicted` stays beside it."""
    unmeasured: str = ""
    """Why there is none, where one was tried."""
    drafted: str = ""
    """Id of the configuration as it was drafted, where `config` is another: with the thresholds
    that were found, or plugged in because its fine-tune was not worth it."""
    macs_nominal: int | None = None
    """By the counts asked for, where `costs` is a mean over images."""

    @property
    def values(self) -> dict[str, float]:
        """Every number an objective can be read from."""
        found: dict[str, float] = dict(self.predicted)
        if self.reading is not None:
            found |= self._read()
        if self.costs is not None:
            found |= {**vars(self.costs), **self.costs.columns}
        if self.score is not None:
            found[METRICS[self.score.metric].column] = self.score.value
        return found

    def source(self, metric: Metric) -> str:
        """Where its value of a metric comes from, in words; '' where it has none."""
        if metric.column not in self.values:
            return ""
        if metric.kind == "judged":
            return "" if self.score is None else f"judged on {self.score.num_images} images"
        if metric.kind == "exact":
            return "exact" if self.macs_nominal is None else "mean over the images judged"
        if metric.name in self._read():
            return MEASURED
        nominal = "" if self.macs_nominal is None else ", for nominal counts"
        if metric.kind == "measured":
            return f"predicted from the power measured{nominal}"
        corrected = is_corrected(self.predicted, metric.aspect)
        error = self.predicted.get(f"{metric.aspect}_error_pct")
        return foretold(error, corrected=corrected) + nominal

    def _read(self) -> dict[str, float]:
        """What its measurement says of the table's metrics; no memory that holds other things."""
        reading = dict(self.reading or {})
        if not memory_alone(reading):
            reading.pop("peak_memory_mb", None)
        return {m: float(reading[m]) for m in ON_DEVICE if reading.get(m) is not None}

    @property
    def divergence(self) -> float | None:
        """KL divergence from the uncompressed model, as a second opinion on a quality that counts
        images; None where there is none. What was fine-tuned may be away from it for the better."""
        score = self.score
        if score is None or self.tuned is not None or METRICS[score.metric].mean:
            return None
        return score.kl

    @property
    def backbone(self) -> str:
        """Whose configuration it is, where several are searched; '' otherwise."""
        return "" if self.config is None else self.config.backbone

    @property
    def details(self) -> str:
        """What is unusual about it beside its method: fine-tuned, a structure or an image size
        other than the model's own, another number format than float32, exits; '' where nothing
        is."""
        config = self.config
        return (
            ""
            if config is None
            else details_of(
                config.mode == "retrain" or self.tuned is not None,
                "" if config.subnet is None else config.subnet.short,
                config.number_format,
                config.image_size,
                "" if config.exits is None else config.exits.words,
            )
        )

    @property
    def measured(self) -> bool:
        """Whether it has a quality of its own and is inside the budget."""
        return self.state == "complete" and self.score is not None and self.feasible

    @property
    def evaluated(self) -> bool:
        """Whether it was judged itself, inside the budget or not."""
        return self.score is not None and self.state in ("complete", "infeasible")

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**plain_fields(self), "version": VERSION}

    @classmethod
    def from_json(cls, text: str, where: str) -> TrialRecord:
        """From `json.dumps` of its plain data."""
        return cls.from_dict(parse_json(text, where), where)

    def row(self) -> dict[str, Any]:
        """One table row: every cost convention, the realised counts, how the quality was got."""
        row: dict[str, Any] = {
            "number": self.number,
            "state": self.state,
            "method": "" if self.config is None else self.config.method,
            "mode": "" if self.config is None else self.config.mode,
            "layers": _joined(self.layers),
            "counts": _joined(self.counts),
        }
        if self.backbone:
            row["backbone"] = self.backbone
        if self.config is not None and self.config.subnet is not None:
            row["subnet"] = self.config.subnet.short
        if self.config is not None and self.config.number_format != "float32":
            row["number_format"] = self.config.number_format
        if self.config is not None and self.config.image_size is not None:
            row["image_size"] = self.config.image_size
        if self.config is not None and self.config.exits is not None:
            row["exits"] = self.config.exits.words
        row.update(self._score_columns())
        row.update(self.costs.columns if self.costs is not None else {})
        if self.macs_nominal is not None and self.score is not None:
            row.update(macs_mean=self.score.macs_mean, macs_std=self.score.macs_std)
            row["macs_nominal"] = self.macs_nominal
        row.update(self._device_columns())
        row.update(
            feasible=self.feasible,
            violation=self.violation,
            origin=self.origin,
            seed=self.seed,
            seconds=round(self.seconds, 3),
            reason=self.reason,
        )
        if self.stopped:
            row["stopped"] = self.stopped
        if self.tuned is not None:
            row["finetune_steps"] = self.tuned["steps"]
            row["finetune_s"] = round(self.tuned["seconds"], 1)
            found = self.tuned.get("evidence") or {}
            row["finetune_lr"] = found.get("lr", "")
            row["finetune_kept_step"] = found.get("kept_step", "")
        row["config_id"] = "" if self.config is None else self.config.config_id
        row["config"] = "" if self.config is None else json.dumps(self.config.to_dict())
        if self.macs_counted is not None:
            row["macs_counted"] = self.macs_counted
        if self.within_budget is not None:
            row["within_budget"] = self.within_budget
        return row

    def _device_columns(self) -> dict[str, Any]:
        """Metrics on the device, whether they are measured or predicted, and how well checked."""
        columns: dict[str, Any] = as_told(self.predicted)
        reading = self.reading
        if reading is not None:
            columns |= {f"predicted_{k}": v for k, v in self.predicted.items() if k in ON_DEVICE}
            columns |= self._read()
            columns["latency_spread_pct"] = 100.0 * reading["mad_ms"] / reading["latency_ms"]
            columns |= {f"measured_{k}": reading[k] for k in ("device", "runtime", "dtype")}
            columns["measured_verdict"] = reading["verdict"]
            for name in ("speedup", "host_ms", "device_ms"):
                if reading.get(name) is not None:
                    columns[f"measured_{name}"] = reading[name]
        for metric in map(METRICS.__getitem__, ON_DEVICE):
            if metric.name in columns:
                columns[f"{metric.aspect}_is"] = self.source(metric)
        return columns | ({"not_measured": self.unmeasured} if self.unmeasured else {})

    def _score_columns(self) -> dict[str, Any]:
        if self.score is None:
            return {}
        name = METRICS[self.score.metric].column
        columns = {
            name: self.score.value,
            f"{name}_low": self.score.low,
            f"{name}_high": self.score.high,
            "num_images": self.score.num_images,
            "fidelity": self.fidelity,
            "finetuned": self.score.finetuned,
        }
        for other in (m.column for m in METRICS.values() if m.kind == "judged"):
            value = getattr(self.score, other)
            if value is not None and other not in columns:
                columns[other] = value
        return columns


def details_of(
    tuned: bool, subnet: str, number_format: str, image_size: int | None, exits: str
) -> str:
    """'fine-tuned, 2 blocks ..., int8, 24 px, exits ...': of these what is not the usual."""
    parts = ["fine-tuned"] if tuned else []
    parts += [subnet] if subnet else []
    parts += [] if number_format == "float32" else [number_format]
    parts += [] if image_size is None else [f"{image_size} px"]
    parts += [f"exits {exits}"] if exits else []
    return ", ".join(parts)


def foretold(error_pct: float | None, *, corrected: bool = False) -> str:
    """What a predicted figure is called, by the error its target states; that is of no figure that
    the run's own measurements corrected."""
    if corrected:
        return f"predicted, {CORRECTED_BY}"
    checked = "unchecked" if error_pct is None else f"checked to {error_pct:.1f} %"
    return f"predicted, {checked}"


def is_corrected(predicted: Mapping[str, float], aspect: str) -> bool:
    """Whether measurements of the run changed this prediction's latency, or memory."""
    return predicted.get(f"{aspect}_correction", 1.0) != 1.0


def as_told(predicted: Mapping[str, float]) -> dict[str, float]:
    """A prediction with the target's stated errors of what the run did not correct."""
    told = dict(predicted)
    for aspect in {METRICS[m].aspect for m in PREDICTED}:
        if is_corrected(predicted, aspect):
            told.pop(f"{aspect}_error_pct", None)
    return told


def _joined(values: Sequence[int]) -> str:
    return " ".join(map(str, values))
