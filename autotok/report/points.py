"""`Point`: one configuration as tables, pictures and reports show it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from autotok.evaluation.paired import Paired
from autotok.metrics import METRICS, TABLE, Metric
from autotok.searching.records.comparison import Comparisons
from autotok.searching.records.record import details_of
from autotok.searching.space.budget import Budget

KINDS = (
    *("best", "front", "uncompressed", "random control", "smaller image", "other backbone"),
    *("trial", "published"),
)


@dataclass(frozen=True)
class Point:
    """One configuration. Percentages are 0 to 100, `low` and `high` a 95 % interval."""

    method: str
    macs_g: float
    quality: float | None = None
    low: float | None = None
    high: float | None = None
    num_images: int | None = None
    layers: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()
    subnet: str = ""
    """Shape of a subnet other than the default one."""
    figures: Mapping[str, float | None] = field(default_factory=dict)
    """Of metrics that are not judged, by column."""
    origin: str = "predicted"
    """Of what a device tells: 'predicted' or 'measured'."""
    speedup: float | None = None
    """Measured, in turns with the uncompressed model: how many times as fast."""
    reading: str = ""
    """Verdict on its measurement: 'steady', 'noisy' or 'unreliable'."""
    mode: str = "plug-in"
    number_format: str = "float32"
    """Of the file that was judged and is shipped."""
    image_size: int | None = None
    """Side in pixels that it runs on; None: the model's own."""
    exits: str = ""
    finetuned: bool = False
    feasible: bool = True
    within_budget: bool | None = None
    """By the independent counter, where it was asked."""
    over: bool = False
    """Outside a limit by what was known of it: formula, prediction or measurement."""
    number: int | None = None
    config_id: str = ""
    kind: str = "trial"
    untuned: float | None = None
    """Quality of the same configuration without its fine-tuning."""
    against_best: Paired | None = None
    """Over the same images, positive where this one is better."""
    against_reference: Paired | None = None
    """Over the same images, positive where it is better than its backbone uncompressed."""
    source: str = ""
    """Of a published one."""
    backbone: str = ""
    """Where several were searched."""

    def __post_init__(self) -> None:
        if self.counts and len(self.counts) != len(self.layers):
            raise ValueError(f"{len(self.counts)} counts of {len(self.layers)} layers")

    @classmethod
    def from_row(cls, row: Mapping[str, Any], metric: Metric, *, kind: str = "trial") -> Point:
        """A point from a row of `trials.csv` or `TrialRecord.row()`; blanks are None."""
        column = metric.column
        return cls(
            method=_text(row.get("method")) or "-",
            macs_g=_number(row.get("macs_g")) or 0.0,
            quality=_number(row.get(column)),
            low=_number(row.get(f"{column}_low")),
            high=_number(row.get(f"{column}_high")),
            num_images=_whole(row.get("num_images")),
            layers=_integers(row.get("layers")),
            counts=_integers(row.get("counts")),
            subnet=_text(row.get("subnet")),
            figures={m.column: _number(row.get(m.column)) for m in TABLE if m.kind != "judged"},
            origin=_origin(row.get("latency_is")),
            speedup=_number(row.get("measured_speedup")),
            reading=_text(row.get("measured_verdict")),
            mode=_text(row.get("mode")) or "plug-in",
            number_format=_text(row.get("number_format")) or "float32",
            image_size=_whole(row.get("image_size")),
            exits=_text(row.get("exits")),
            finetuned=_truth(row.get("finetuned")) is True,
            feasible=_truth(row.get("feasible")) is not False,
            within_budget=_truth(row.get("within_budget")),
            over=(_number(row.get("violation")) or 0.0) > 0.0,
            number=_whole(row.get("number")),
            config_id=_text(row.get("config_id")),
            kind=kind,
            untuned=_number(row.get("plugged")),
            backbone=_text(row.get("backbone")),
        )

    def value(self, metric: Metric) -> float | None:
        """Of a metric, by its column; the quality for the one that was judged."""
        if metric.kind == "judged":
            return self.quality
        return self.figures.get(metric.column, self.macs_g if metric.name == "macs" else None)

    def share_of(self, base: Point | None) -> float | None:
        """Its quality over the uncompressed model's, on the same images; None where that is not
        known, or a ratio means nothing."""
        if base is None or self.quality is None or base.quality is None:
            return None
        own, other, paired = self.quality, base.quality, self.against_reference
        if paired is not None:
            gain = (
                paired.difference if METRICS[paired.metric].higher_is_better else -paired.difference
            )
            if paired.num_images == self.num_images:
                other = own - gain
            elif paired.num_images == base.num_images:
                own = other + gain
            else:
                return None
        elif self.num_images != base.num_images:
            return None
        return own / other if other > 0 else None

    @property
    def is_whole(self) -> bool:
        """Whether it is the uncompressed model, of the best's backbone or another."""
        return self.kind == "uncompressed" or (self.kind == "other backbone" and not self.layers)

    @property
    def name(self) -> str:
        """The method, and on which backbone where several were searched."""
        return f"{self.method} on {self.backbone}" if self.backbone else self.method

    @property
    def retrained(self) -> bool:
        """Whether its weights were fine-tuned for this configuration."""
        return self.finetuned or self.mode == "retrain"

    @property
    def mode_text(self) -> str:
        """'plug-in' or 'fine-tuned', and what else of `details` there is; '-' for the uncompressed
        model, the source's words for a published one."""
        if self.kind == "uncompressed":
            return "-"
        if self.kind == "published":
            return self.mode
        plain = self.retrained or self.kind == "smaller image" or self.is_whole
        return ", ".join(filter(None, ("" if plain else "plug-in", self.details))) or "-"

    @property
    def details(self) -> str:
        """What is unusual about it beside its method, as `TrialRecord.details` says it."""
        tuned = self.retrained and not self.is_whole
        return details_of(tuned, self.subnet, self.number_format, self.image_size, self.exits)

    @property
    def called(self) -> str:
        """Its name with what is unusual about it: 'evit (int8)', 'none (24 px)'."""
        return f"{self.name} ({self.details})" if self.details else self.name

    @property
    def schedule(self) -> str:
        """Layers and patch tokens kept there, as '3:420 6:210'."""
        if not self.layers:
            return "-"
        counts = self.counts or ("",) * len(self.layers)
        return " ".join(
            f"{layer}:{count}" if count != "" else str(layer)
            for layer, count in zip(self.layers, counts, strict=True)
        )


def gflops(macs_g: float) -> str:
    """Three decimals; more where a small model needs them."""
    return METRICS["macs"].number(macs_g)


def _origin(value: Any) -> str:
    """'measured' or 'predicted', of a row's words."""
    return "measured" if isinstance(value, str) and value.startswith("measured") else "predicted"


def _number(value: Any) -> float | None:
    if value is None or value == "":
        return None
    number = float(value)
    return None if math.isnan(number) else number


def _text(value: Any) -> str:
    """'' of what is not there: pandas reads a blank as NaN, and an id of digits as a number."""
    return "" if value is None or value != value else str(value)


def _whole(value: Any) -> int | None:
    number = _number(value)
    return None if number is None else int(number)


def _integers(value: Any) -> tuple[int, ...]:
    if isinstance(value, str):
        return tuple(int(part) for part in value.split())
    if isinstance(value, (list, tuple)):
        return tuple(int(part) for part in value)
    number = _whole(value)  # a csv column of single layers is read as numbers
    return () if number is None else (number,)


def _truth(value: Any) -> bool | None:
    """A bool from a bool, NumPy's bool, or the text csv makes of it."""
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.strip().lower())
    number = _number(value)
    return None if number is None else bool(number)


def limits_of(budgets: Sequence[Budget]) -> dict[str, float]:
    """By metric's name, in its column's unit."""
    return {b.metric: b.limit / METRICS[b.metric].scale for b in budgets}


def points_of(found: Mapping[str, Any]) -> list[Point]:
    """What `Run.records()` gives as points, without the trials; the best stands once, among the
    front."""
    front, best, reference = found["front"], found["best"], found["reference"]
    kinds = [
        (r, "best" if best is not None and r.number == best.number else "front") for r in front
    ]
    kinds += [(r, "random control") for r in found["controls"] if r.score is not None]
    smaller = found.get("smaller_image")
    kinds += [(smaller, "smaller image")] if smaller is not None and smaller.score else []
    kinds += [(r, "other backbone") for r in found.get("others", ()) if r.score is not None]
    kinds += [] if reference is None else [(reference, "uncompressed")]
    metric = METRICS[next((r.score.metric for r, _ in kinds if r.score is not None), "top1")]
    comparisons: Comparisons = found["comparisons"]
    points = []
    for record, kind in kinds:
        point = Point.from_row({**record.row(), **comparisons.columns(record)}, metric, kind=kind)
        provenance = comparisons.of(record.number)
        if provenance is not None:
            best, whole = provenance.against_best, provenance.against_reference
            point = dataclasses.replace(point, against_best=best, against_reference=whole)
        points.append(point)
    return points
