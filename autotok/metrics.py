"""The table of metrics: what each is called, how it is asked for, counted, compared and written.

Budgets, objectives, records, targets, reports, dashboard notes and the command line read it: a new
metric is a row here and whatever its values come from (`TrialRecord.values`). A script adds a row
of its own with `register_metric` before it asks for anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from autotok.errors import ConfigError, UnknownName
from autotok.names import known

SCALES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "t": 1e12}


@dataclass(frozen=True)
class Metric:
    """One row: a figure that a model has."""

    name: str
    """In the unit that budgets count in: 'macs', 'latency_ms', 'top1'."""
    column: str
    """In tables, files and studies, in the unit shown there: 'macs_g', 'latency_ms', 'top1_pct'."""
    label: str
    unit: str
    """Of the column."""
    kind: str
    """Where its values come from: 'exact' (a formula), 'predicted' (for the target, until a device
    measures it), 'measured' (only a device tells it) or 'judged' (on images)."""
    words: tuple[str, ...] = ()
    """How it may be called beside name and column: `--objective latency`, `50%latency`."""
    higher_is_better: bool = False
    digits: int = 2
    scale: float = 1.0
    """How many of `name`'s unit are one of the column's."""
    spellings: Mapping[str, float] = field(default_factory=dict, hash=False)
    """Units that a budget may be written in, lower case: how many of `name`'s unit each is."""
    shown: tuple[str, ...] = ()
    """Those that messages list; the first is one of the column's unit."""
    limit: str = ""
    """A value in words, of a number."""
    counts: float = 0.0
    """How many whole things in words one of `name`'s unit is; 0 where they are no whole things."""
    aspect: str = ""
    """What of a prediction it rests on: 'latency' or 'memory' (`latency_error_pct` is the target's
    stated error), or 'energy'."""
    follows: str = ""
    """The metric that its predictions are worked out from."""
    predicted: Callable[[Any], float] | None = None
    """Its value of a `Prediction`; None: the attribute of its name."""
    guessed: Callable[[int], float] | None = None
    """Its value for answers drawn evenly from so many classes; for KL, where the model is sure."""

    mean: bool = False
    """Judged: a mean over values of single images, not a share of the images."""

    def of(self, prediction: object) -> float:
        """Its value of a `Prediction`."""
        read = self.predicted
        return float(getattr(prediction, self.name) if read is None else read(prediction))

    def guessing(self, classes: int) -> float | None:
        """Its value for answers drawn evenly; None where nobody can tell."""
        return None if self.guessed is None or classes < 2 else self.guessed(classes)

    def number(self, value: float | None) -> str:
        """A value of the column; more digits where it is small, and '-' for none."""
        if value is None or math.isnan(value):
            return "-"
        if self.kind != "judged" and abs(value) < 10.0 ** (2 - self.digits):
            return f"{value:.3g}"
        return f"{value:.{self.digits}f}"

    def text(self, value: float | None) -> str:
        """The value with its unit."""
        number = self.number(value)
        return number if number == "-" else f"{number} {self.unit}".strip()

    def limit_in_words(self, value: float) -> str:
        """A limit in `name`'s unit, in words; where more is better, the least there may be."""
        return ("at least " if self.higher_is_better else "") + self.in_words(value)

    def in_words(self, value: float) -> str:
        """A value in `name`'s unit, with its unit and convention in words."""
        return self.limit.format(math.floor(value * self.counts) if self.counts else value)

    def nearest_budget(self, value: float) -> str:
        """A budget that a value in `name`'s unit meets, as one writes it: four significant digits,
        rounded to the side that is feasible."""
        value /= self.scale
        power = 10.0 ** (3 - math.floor(math.log10(value)))
        round_, slack = (math.floor, 1e-9) if self.higher_is_better else (math.ceil, -1e-9)
        return f"{round_(value * power + slack) / power:.10g}{self.shown[0]}"

    def holds(self, value: float, limit: float) -> bool:
        """Whether a value is on the right side of a limit, or on it."""
        return value >= limit if self.higher_is_better else value <= limit

    def excess(self, value: float, limit: float) -> float:
        """How far a value is on the wrong side of a limit, as a share; 0 or less holds."""
        if self.higher_is_better:
            return limit / value - 1.0 if value > 0.0 else math.inf
        return value / limit - 1.0

    @property
    def axis(self) -> str:
        """What a picture writes along an axis."""
        better = " (less is better)" if self.kind == "judged" and not self.higher_is_better else ""
        return f"{self.label}{f' [{self.unit}]' if self.unit else ''}{better}"

    @property
    def gain_unit(self) -> str:
        """Of a difference of two values, positive where the first is better."""
        more = "more" if self.higher_is_better else "less"
        return "points" if self.unit == "%" else f"{more} {self.brief}"

    @property
    def brief(self) -> str:
        """The label without what it is compared with."""
        return self.label.split(" from ")[0].split(" with ")[0]


def _scaled(*stems: str) -> dict[str, float]:
    return {scale + stem: factor for stem in stems for scale, factor in SCALES.items()}


def _same(amount: float, *units: str) -> dict[str, float]:
    return dict.fromkeys(units, amount)


_THOUSANDS = {"k": 1e-3, "m": 1.0, "g": 1e3}
_BYTES = {
    **{scale + word: mb for scale, mb in _THOUSANDS.items() for word in ("b", "bytes")},
    **{f"{scale}ib": 1024.0**power / 1e6 for power, scale in enumerate("kmg", 1)},
}
TABLE: list[Metric] = []
METRICS: dict[str, Metric] = {}
EXACT: list[str] = []
PREDICTED: list[str] = []
ON_DEVICE: list[str] = []
"""Known only where a target or a device is."""
QUALITIES = ["auto"]
"""What `--quality` may be."""
UNITS: dict[str, tuple[str, float]] = {}
"""Of every unit of a budget, lower case: the metric, and how many of its unit it is."""
_BY_WORD: dict[str, Metric] = {}


def register_metric(metric: Metric) -> None:
    """Make a row known.

    Raises:
        ConfigError: one of its words or units is another's.
    """
    words = {metric.name, metric.column, *metric.words}
    taken = [*sorted(words & _BY_WORD.keys()), *sorted(metric.spellings.keys() & UNITS.keys())]
    if taken:
        raise ConfigError(f"metric '{metric.name}' is '{taken[0]}' as another is; pick other words")
    TABLE.append(metric)
    METRICS[metric.name] = metric
    _BY_WORD.update(dict.fromkeys(words, metric))
    UNITS.update({unit: (metric.name, amount) for unit, amount in metric.spellings.items()})
    kinds = {"exact": EXACT, "predicted": PREDICTED, "judged": QUALITIES}
    for names in (kinds.get(metric.kind), ON_DEVICE if metric.aspect else None):
        if names is not None:
            names.append(metric.name)


_ROWS = (
    Metric(
        "top1", "top1_pct", "top-1 accuracy", "%", "judged", ("accuracy",),
        higher_is_better=True, digits=1, guessed=lambda classes: 100.0 / classes,
    ),
    Metric(
        "agreement", "agreement_pct", "agreement with the uncompressed model", "%", "judged",
        higher_is_better=True, digits=1, guessed=lambda classes: 100.0 / classes,
    ),
    Metric(
        "kl", "kl", "KL divergence from the uncompressed model", "", "judged", digits=4,
        guessed=math.log, mean=True,
    ),
    Metric(
        "feature", "feature_pct", "cosine of features with the uncompressed model's", "%",
        "judged", ("features",), higher_is_better=True, mean=True,
    ),
    Metric(
        "knn", "knn_pct", "nearest neighbours shared with the uncompressed model", "%", "judged",
        ("neighbours",), higher_is_better=True, digits=1, mean=True,
    ),
    Metric(
        "knn_top1", "knn_top1_pct", "top-1 accuracy of nearest neighbours", "%", "judged",
        ("neighbour_top1",), higher_is_better=True, digits=1,
    ),
    Metric("own", "own", "own quality", "", "judged", higher_is_better=True, digits=4, mean=True),
    Metric("own_loss", "own_loss", "own loss", "", "judged", digits=4, mean=True),
    Metric(
        "macs", "macs_g", "GFLOPs, attention included", "G multiply-accumulates", "exact",
        ("mac", "flops", "flop", "gflops", "cost"), digits=3, scale=1e9,
        spellings=_scaled("macs", "mac"), shown=("GMACs", "MMACs"),
        limit="{:,} multiply-accumulates per image, attention included", counts=1.0,
    ),
    Metric(
        "macs_noattn", "macs_noattn_g", "GFLOPs, attention products left out",
        "G multiply-accumulates", "exact", digits=3, scale=1e9, shown=("GFLOPs", "MFLOPs"),
        limit="{:,} multiply-accumulates per image, attention products left out", counts=1.0,
    ),
    Metric(
        "params", "params_m", "parameters", "M parameters", "exact", ("parameters", "param"),
        digits=3, scale=1e6, spellings=_scaled("parameters", "params", "param"),
        shown=("Mparams", "params"), limit="{:,} parameters", counts=1.0,
    ),
    Metric(
        "latency_ms", "latency_ms", "latency", "ms", "predicted", ("latency", "time", "ms"),
        spellings={"ms": 1.0, "us": 1e-3, "µs": 1e-3, "s": 1e3, "sec": 1e3},
        shown=("ms", "us", "s"), limit="{:.4g} ms per batch on the target", aspect="latency",
    ),
    Metric(
        "throughput_img_s", "throughput_img_s", "throughput", "img/s", "predicted",
        ("throughput", "img/s"), higher_is_better=True, digits=1,
        spellings=_same(1.0, *(f"{i}/{s}" for i in ("img", "imgs", "image", "images")
                               for s in ("s", "sec", "second")), "imagespersecond"),
        shown=("img/s",), limit="{:,.1f} images per second on the target",
        aspect="latency", follows="latency_ms",
    ),
    Metric(
        "peak_memory_mb", "peak_memory_mb", "peak memory", "MB", "predicted",
        ("memory", "mem", "mb"), digits=1, spellings=_BYTES,
        shown=("MB", "GB", "MiB", "GiB", "KB"),
        limit="{:,} bytes of peak memory on the target", counts=1e6, aspect="memory",
    ),
    Metric(
        "energy_mj", "energy_mj", "energy", "mJ", "measured", ("energy", "mj"),
        spellings={"mj": 1.0, "uj": 1e-3, "µj": 1e-3, "j": 1e3}, shown=("mJ", "J"),
        limit="{:.4g} mJ per batch on the device", aspect="energy", follows="latency_ms",
    ),
)  # fmt: skip
for _row in _ROWS:
    register_metric(_row)


def metric_of(word: str, *, kind: str = "metric", beside: Iterable[str] = ()) -> Metric:
    """The metric of that name, column or word, whatever the case.

    Raises:
        UnknownName: there is none, calling it a `kind`; `beside` are further names allowed there.
    """
    found = _BY_WORD.get(word.strip().lower())
    if found is None:
        words = [m.words[0] for m in TABLE if m.words]
        raise UnknownName(kind, word, [*beside, *METRICS, *words])
    return found


def check_quality(name: str, evaluator: str | None = None) -> str:
    """What `--quality` and an `evaluator` mean, see `own_quality`; `UnknownName` for nothing."""
    return own_quality(known("quality", name, QUALITIES), evaluator)


def own_quality(quality: str, evaluator: str | None) -> str:
    """What is judged, where an `evaluator` may stand beside a quality: its own, or what was asked.

    Raises:
        ConfigError: one asks for what the other does not give.
    """
    own = ("own", "own_loss")
    if evaluator is None:
        if quality in own:
            raise ConfigError(
                f"quality '{quality}' is what an evaluator of yours says; give --evaluator"
                " MODULE:FUNCTION"
            )
        return quality
    if quality not in ("auto", *own):
        raise ConfigError(
            f"quality '{quality}' is not what evaluator '{evaluator}' gives; leave it out, or give"
            " own, or own_loss where less is better"
        )
    return "own" if quality == "auto" else quality
