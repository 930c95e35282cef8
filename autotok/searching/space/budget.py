"""What must hold: budgets parsed generously and echoed exactly.

'2.3GFLOPs', '2.3 gmacs', '2300M', '50%', '50%latency', '26ms', '30fps', '1500img/s', '600MB',
'0.6GiB', '12Mparams', '90mJ'; the units are those of `autotok.metrics`.
A share is of the uncompressed cost. "FLOPs" follow the convention asked for; 'macs' are always
multiply-accumulates with attention included. A number alone counts as FLOPs do, from a million on.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from autotok.errors import ConfigError, UnknownName, nearest
from autotok.metrics import EXACT, METRICS, SCALES, TABLE, UNITS, metric_of

CONVENTIONS = ("macs", "macs-noattn", "flops2x")
_NUMBER = re.compile(
    r"^\s*([+-]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d*)?(?:e[+-]?\d+)?)\s*(.*?)\s*$", re.I
)
_SPLIT = re.compile(r"(?<!\d),|,(?!\d{3}(?:\D|$))|;|\+| and ")
_COMMA = re.compile(r"(?<![\d.,])\d+,(?:\d{1,2}|\d{4,})(?![\d,])")
_FLOPS = {scale + end: factor for scale, factor in SCALES.items() for end in ("", "flop", "flops")}
"""What these count follows the convention asked for."""
_LEAST, _MOST = 1e-9, 1e24
"""In any metric's own unit; floats keep a limit within these finite and above 0."""
_LEAST_ALONE = 1e6
"""Without a unit: what is less was meant in one, or as a share."""
_SHARED = ("latency", "throughput", "memory", "params")


@dataclass(frozen=True)
class BudgetRequest:
    """A budget as asked: an amount in the metric's own unit, or a share of the uncompressed."""

    metric: str
    amount: float
    relative: bool
    text: str
    backbone: str = ""
    """Of which it is a share, where several are searched."""


@dataclass(frozen=True)
class Budget:
    """A limit that must hold, of a metric that is not judged: the most there may be of it, or of a
    throughput the least."""

    metric: str
    limit: float
    text: str
    """As the user wrote it."""
    relative: bool = False
    """A share of what the uncompressed model costs."""

    @property
    def exact(self) -> bool:
        """Known from a formula, not from a prediction."""
        return self.metric in EXACT

    def excess(self, value: float) -> float:
        """How far a value is outside the limit, as a share; 0 or less is inside."""
        return METRICS[self.metric].excess(value, self.limit)

    def excess_of(self, values: Mapping[str, float]) -> float:
        """`excess` of what is known by name; 0 where this metric is not."""
        return self.excess(float(values[self.metric])) if self.metric in values else 0.0

    def holds(self, value: float) -> bool:
        """Whether a value is within the limit."""
        return METRICS[self.metric].holds(value, self.limit)

    @property
    def echo(self) -> str:
        """The exact meaning, in words: printed first by every command that takes a budget."""
        return f"{self.text} = {METRICS[self.metric].limit_in_words(self.limit)}"


def worst_excess(budgets: Iterable[Budget], values: Mapping[str, float]) -> float:
    """How far values, by name, are outside the budget they miss most; 0 or less is inside all."""
    return max((budget.excess_of(values) for budget in budgets), default=0.0)


def stated(budgets: Iterable[Budget]) -> dict[str, Any]:
    """Sections of config.yaml: the limits that hold in a run, in words and as numbers."""
    budgets = tuple(budgets)
    limits = [dataclasses.asdict(b) for b in budgets]
    return {"budgets": [b.echo for b in budgets], "limits": limits}


def parse_budgets(
    texts: str | Iterable[str], *, convention: str = "macs"
) -> tuple[BudgetRequest, ...]:
    """Every budget asked for; a string may hold several, separated by commas.

    Raises:
        ConfigError: two budgets on one metric, or none at all.
    """
    parts = [texts] if isinstance(texts, str) else list(texts)
    for part in parts:
        _refuse_comma(part)
    words = [word for part in parts for word in _SPLIT.split(part) if word.strip()]
    requests = tuple(parse_budget(word, convention=convention) for word in words)
    metrics = [r.metric for r in requests]
    for metric in metrics:
        if metrics.count(metric) > 1:
            raise ConfigError(f"budgets {words} limit {metric} twice; give one limit per metric")
    if not requests:
        raise ConfigError("no budget was given; write one such as 2.3GFLOPs, 50%, 26ms or 600MB")
    return requests


def parse_budget(text: str, *, convention: str = "macs") -> BudgetRequest:
    """One budget; see the module's examples.

    Raises:
        ConfigError: no number, an unknown unit (the nearest is named), or nothing positive.
    """
    if convention not in CONVENTIONS:
        raise UnknownName("flops convention", convention, CONVENTIONS)
    _refuse_comma(text)
    if re.search(r"(flops?|macs?)\s*/\s*s", text, re.I):
        raise ConfigError(
            f"budget '{text}' is a speed, and a model's cost is an amount per image; leave '/s' out"
        )
    match = _NUMBER.match(text)
    number, unit = (match.group(1), match.group(2)) if match else ("", text)
    try:
        amount = float(number.replace(",", ""))
    except ValueError:
        raise ConfigError(
            f"budget '{text}' does not start with a number; write one such as 2.3GFLOPs or 50%"
        ) from None
    if not amount > 0 or math.isinf(amount):
        raise ConfigError(
            f"budget '{text}' must be positive and finite; write one such as 2.3GFLOPs"
        )
    if not unit and amount < _LEAST_ALONE:
        raise ConfigError(
            f"budget '{text}' has no unit; give it one, as in 2.3GFLOPs, 50%, 26ms, 600MB or"
            " 12Mparams"
        )
    metric, factor, relative = _unit(unit, text, convention)
    value = 1000.0 / amount if factor is None else amount * factor
    if not _LEAST <= value <= _MOST:
        raise ConfigError(
            f"budget '{text}' is out of all proportion; write one such as 2.3GFLOPs, 26ms or 600MB"
        )
    return BudgetRequest(metric, value, relative, f"{number} {unit}".strip())


def _refuse_comma(text: str) -> None:
    """Raise where a comma stands for a decimal point; between thousands it may stand."""
    if _COMMA.search(text):
        raise ConfigError(
            f"budget '{text}' has a comma in its number; write a point, as in 2.3GFLOPs"
        )


def _unit(unit: str, text: str, convention: str) -> tuple[str, float | None, bool]:
    word = unit.lower().replace(" ", "").rstrip(".")
    if word.startswith("%"):
        of = word[1:].removeprefix("of") or "macs"
        try:
            metric = metric_of(of).name
        except UnknownName:
            metric = ""
        if metric == "macs" and convention == "macs-noattn" and "mac" not in word:
            metric = "macs_noattn"
        if metric and METRICS[metric].limit:
            return metric, 0.01, True
    if word == "fps":  # batches a second
        return "latency_ms", None, False
    if word in UNITS:
        return *UNITS[word], False
    if word in _FLOPS and (word or text.strip()):
        metric = "macs_noattn" if convention == "macs-noattn" else "macs"
        return metric, _FLOPS[word] * (0.5 if convention == "flops2x" else 1.0), False
    hints = list(dict.fromkeys(["GFLOPs", "MFLOPs", *(u for m in TABLE for u in m.shown), "fps"]))
    shown = ", ".join([*hints, "M", "G", "%", *(f"%{word}" for word in _SHARED)])
    raise ConfigError(
        f"budget '{text}' has the unknown unit '{unit}';{nearest(unit, hints)} known: {shown}"
    )


def resolve(request: BudgetRequest, uncompressed: Mapping[str, float]) -> Budget:
    """The limit itself; a share is taken of the uncompressed value of its metric.

    Raises:
        ConfigError: a share of something that is not known, or of 100 % and more.
    """
    text = request.text.replace(" %", "%")
    if not request.relative:
        return Budget(request.metric, request.amount, text)
    if METRICS[request.metric].kind == "measured":
        raise ConfigError(
            f"budget '{text}' is a share of what only a measurement tells; give an amount"
        )
    if request.metric not in uncompressed:
        raise ConfigError(
            f"budget '{text}' is a share of {request.metric}, which is not known without a target;"
            " give --target, or an amount"
        )
    if METRICS[request.metric].higher_is_better:
        if request.amount < 1.0:
            raise ConfigError(
                f"budget '{text}' is less than the uncompressed model gives; at least 100%"
            )
    elif request.amount > 1.0:
        raise ConfigError(
            f"budget '{text}' is more than the uncompressed model costs; at most 100%"
        )
    limit = request.amount * uncompressed[request.metric]
    text += f" of {request.backbone}" if request.backbone else ""
    return Budget(request.metric, limit, text, relative=True)
