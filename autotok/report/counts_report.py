"""The cost counted in further ways, and what each of them leaves out."""

from __future__ import annotations

from typing import Any

from autotok.compression.model import CompressedViT
from autotok.counting.counter import count_operators
from autotok.counting.macs import Cost
from autotok.counting.operators import OperatorClass
from autotok.counting.third_opinion import FvcoreCount, count_with_fvcore
from autotok.errors import UsageError
from autotok.predicting.trace import trace

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
    operators = trace(model).operators
    missing = sum(op.macs for op in operators if op.kind is OperatorClass.ATTENTION)
    rest = found.macs - (exact.macs - missing + found.norms)
    difference = f"{100 * (found.macs / exact.macs - 1):+.2f} %: "
    parts = [f"{sign} {value / 1e9:.4f} G {what}" for sign, value, what in (
        ("-", missing, "of fused attention"),
        ("+", found.norms, "of norms"),
        ("+" if rest > 0 else "-", abs(rest), "of other operators"),
    ) if value]  # fmt: skip
    report: dict[str, Any] = {
        "fvcore_macs": found.macs,
        "fvcore_difference": difference + (", ".join(parts) or "none"),
    }
    if found.left_out:
        report["left_out_by_fvcore"] = dict(sorted(found.left_out.items()))
    return report
