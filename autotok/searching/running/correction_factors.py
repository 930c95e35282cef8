"""What measurements made of predictions: factors by metric, put on a prediction and taken off it.

A prediction carries its factors (`latency_correction` ...), so that they can be undone. Predictions
are of float32; another number format of the exported file has factors of its own.
"""

from __future__ import annotations

from collections.abc import Mapping

from autotok.metrics import METRICS, PREDICTED

CORRECTED = {m: METRICS[m].aspect for m in PREDICTED if not METRICS[m].follows}
"""What is predicted by itself and measured; other metrics follow from these."""
POWER = "power_w"
"""Watts, or mJ a ms: what makes energy of a time, once a device with a counter was measured."""
_NOTED = {POWER, *(f"{aspect}_correction" for aspect in CORRECTED.values())}
Values = Mapping[str, float]


def factor_name(metric: str, number_format: str) -> str:
    """Under which a metric's factor is kept."""
    return metric if number_format == "float32" else f"{metric} {number_format}"


def as_carried(factors: Values, number_format: str) -> dict[str, float]:
    """Factors as predictions carry them."""
    found = {
        f"{aspect}_correction": factors.get(factor_name(metric, number_format), 1.0)
        for metric, aspect in CORRECTED.items()
    }
    found = {key: factor for key, factor in found.items() if factor != 1.0}
    return found | {k: f for k, f in factors.items() if k == POWER}


def corrected(raw: Values, factors: Values, number_format: str) -> dict[str, float]:
    """A prediction under factors, which it carries."""
    found = {**raw, **as_carried(factors, number_format)}
    for metric, aspect in CORRECTED.items():
        _scale(found, metric, found.get(f"{aspect}_correction", 1.0))
    if POWER in found and "latency_ms" in found:
        found["energy_mj"] = found["latency_ms"] * found[POWER]
    return found


def corrected_anew(predicted: Values, factors: Values, number_format: str) -> dict[str, float]:
    """A prediction under these factors instead of those that it carries."""
    past = {k: v for k, v in predicted.items() if k in _NOTED}
    if not predicted or past == as_carried(factors, number_format):
        return dict(predicted)
    raw = {k: v for k, v in predicted.items() if k not in _NOTED}
    for metric, aspect in CORRECTED.items():
        _scale(raw, metric, 1.0 / past.get(f"{aspect}_correction", 1.0))
    return corrected(raw, factors, number_format)


def power_of(name: str, factor: float) -> float:
    """What a factor on the metric that one follows makes of it: throughputs fall as times rise."""
    return 1.0 / factor if METRICS[name].higher_is_better else factor


def _scale(values: dict[str, float], metric: str, factor: float) -> None:
    """Multiply a prediction, and what follows from it."""
    for name in values.keys() & set(PREDICTED):
        if metric in (name, METRICS[name].follows):
            values[name] *= power_of(name, factor)
