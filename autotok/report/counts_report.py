"""The cost counted in further ways, and what each of them leaves out."""

from __future__ import annotations

from typing import Any

from autotok.compression.model import CompressedViT
from autotok.counting.cost import Cost
from autotok.counting.counter import count_operators
from autotok.counting.third_opinion import FvcoreCount, count_with_fvcore
from autotok.errors import UsageError
from autotok.predicting.trace import trace

_NAMES = {"scaled_dot_product_attention": "fused attention"}
LEFT_OUT = {
    "formula": "norms, softmax, activations, additions, gathers, sorts",
    "meta_counter": "the same; it adds up the products that ran, fused attention as its two",
}


def counts_report(model: CompressedViT, exact: Cost) -> dict[str, Any]:
    """torch's counter on the meta device and, where it is installed, fvcore beside the formula."""
    counted = count_operators(model)
    report: dict[str, Any] = {
        "macs_counted": counted.macs,
        "check": "equal" if counted.macs == exact.macs else "DIFFERENT",
        "uncounted_operators": list(counted.uncounted),
    }
    try:
        report |= _fvcore(model, exact, count_with_fvcore(model))
    except UsageError as error:
        report["fvcore"] = str(error)
    return report | {f"left_out_by_{name}": words for name, words in LEFT_OUT.items()}


def _fvcore(model: CompressedViT, exact: Cost, found: FvcoreCount) -> dict[str, Any]:
    """Its figure, and the difference to the formula taken apart."""
    missing: dict[str, int] = {}
    for operator in trace(model).operators:
        if operator.macs and operator.name in found.left_out:
            missing[operator.name] = missing.get(operator.name, 0) + operator.macs
    rest = found.macs - (exact.macs - sum(missing.values()) + found.norms)
    told = [(-macs, _NAMES.get(name, name)) for name, macs in missing.items()]
    told += [(found.norms, "norms"), (rest, "products that it counts otherwise")]
    parts = [f"{value / 1e9:+.4f} G of {what}" for value, what in told if value]
    return {
        "fvcore_macs": found.macs,
        "fvcore_difference": f"{100 * (found.macs / exact.macs - 1):+.2f} %: {', '.join(parts)}",
        "left_out_by_fvcore": ", ".join([*missing, "and what multiplies nothing, norms excepted"]),
        "fvcore_uncounted": dict(sorted(found.left_out.items())),
    }
