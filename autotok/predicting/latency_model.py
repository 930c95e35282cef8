"""Time of an operator on a target: a roofline with efficiencies, or terms that were calibrated.

    roofline   kernels * start + max(macs' / (efficiency * peak), bytes / bandwidth)
               macs' rounds a product's rows up to whole tiles, and grows by half_width / K and
               half_width / N, so that its efficiency saturates with the widths K and N
    terms      sum of microseconds * amount over the regressors of `features.py`

Sizes may be arrays with one entry per configuration; see `programs.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autotok.counting.operators import OperatorClass

from .regressors import Amount, Sizes, operator_features, total
from .target import Setting, Target
from .trace import Operator, Trace

__all__ = [
    "Kernel",
    "device_ms",
    "fused",
    "kernel_features",
    "kernels_of",
    "operator_kernel",
    "trace_features",
]

_PRODUCTS = {
    OperatorClass.MATMUL: "matmul",
    OperatorClass.CONV: "conv",
    OperatorClass.ATTENTION: "attention",
}
_POINTWISE = frozenset({OperatorClass.ELEMENTWISE, OperatorClass.COPY})


@dataclass(frozen=True)
class Kernel:
    """What an operator's time depends on."""

    name: str
    kind: OperatorClass
    inputs: Sequence[Sizes]
    outputs: Sequence[Sizes]
    read: Amount
    """Bytes."""
    written: Amount
    macs: Amount
    launches: int


def operator_kernel(operator: Operator) -> Kernel:
    """A traced operator as the model sees it."""
    return Kernel(
        operator.name,
        operator.kind,
        operator.inputs,
        operator.outputs,
        operator.bytes_read,
        operator.bytes_written,
        operator.macs,
        operator.launches,
    )


def kernels_of(trace: Trace) -> list[Kernel]:
    """All operators of a trace."""
    return [operator_kernel(operator) for operator in trace.operators]


def device_ms(
    kernels: Sequence[Kernel], target: Target, how: Setting, *, dtype: str, pooled: bool = False
) -> Amount:
    """Milliseconds the kernels take, dispatch not included where the setting has a roofline."""
    if how.terms is not None:
        return sum((_terms_us(k, how, pooled=pooled) for k in kernels), start=0.0) / 1e3
    return sum((_roofline_ms(k, target, how, dtype) for k in kernels if k.launches), start=0.0)


def trace_features(trace: Trace) -> dict[str, float]:
    """Regressors of a whole model: sums over its operators."""
    found: dict[str, float] = {}
    for kernel in kernels_of(trace):
        for name, amount in kernel_features(kernel, pooled=trace.pooled).items():
            found[name] = found.get(name, 0.0) + float(amount)
    return found


def kernel_features(kernel: Kernel, *, pooled: bool) -> dict[str, Amount]:
    """Regressors of one kernel by name; `pooled` as in `Trace`."""
    return operator_features(
        kernel.name,
        kernel.kind,
        kernel.inputs,
        kernel.outputs,
        touched=kernel.read + kernel.written,
        macs=kernel.macs,
        crowded=pooled,
    )


def _terms_us(kernel: Kernel, how: Setting, *, pooled: bool) -> Amount:
    assert how.terms is not None
    times = how.terms.microseconds
    found = kernel_features(kernel, pooled=pooled)
    return sum((times.get(name, 0.0) * amount for name, amount in found.items()), start=0.0)


def _roofline_ms(kernel: Kernel, target: Target, how: Setting, dtype: str) -> Amount:
    """The start is what makes small kernels less efficient than large ones of the same class."""
    bandwidth = 1e6 * target.bandwidth_gb_s.value * how.efficiency["bandwidth"].value  # bytes/ms
    share = how.efficiency[_PRODUCTS.get(kernel.kind, "matmul")].value
    rate = 1e6 * target.peak(dtype) * share  # macs/ms
    busy = np.maximum(
        _effective_macs(kernel, how) / rate, (kernel.read + kernel.written) / bandwidth
    )
    return how.kernel_start_us.value / 1e3 * kernel.launches + busy


def _effective_macs(kernel: Kernel, how: Setting) -> Amount:
    """Multiply-accumulates, with what tiles waste and narrow products lose."""
    macs = kernel.macs
    if kernel.kind is not OperatorClass.MATMUL or len(kernel.inputs) < 2:
        return macs
    left, right = kernel.inputs[-2], kernel.inputs[-1]
    if how.tile_rows is not None and len(left) > 1:
        rows, tile = left[-2] if len(left) > 2 else total(left[:-1]), how.tile_rows.value
        macs = macs * (np.ceil(rows / tile) * tile / np.maximum(rows, 1))
    if how.half_width is not None and len(right) > 1:
        half = how.half_width.value
        macs = macs * (1 + half / np.maximum(right[-2], 1) + half / np.maximum(right[-1], 1))
    return macs


def fused(kernels: Sequence[Kernel], fusion: str) -> list[Kernel]:
    """The kernels a compiler makes of them: neighbouring pointwise ones become one.

    'pointwise' joins runs of pointwise operators, which then read what the first reads and write
    what the last writes; 'epilogue' also hides them behind the product or norm before them.
    """
    if fusion == "none":
        return list(kernels)
    found: list[Kernel] = []
    for kernel in kernels:
        if not kernel.launches:
            continue
        last = found[-1] if found else None
        joins = kernel.kind in _POINTWISE and last is not None
        hosts = _POINTWISE if fusion == "pointwise" else _POINTWISE | {*_PRODUCTS} | _NORMS
        if last is not None and joins and last.kind in hosts:
            extra = np.maximum(kernel.read - last.written, 0)
            found[-1] = dataclasses.replace(last, read=last.read + extra, written=kernel.written)
            continue
        found.append(kernel)
    return found


_NORMS = frozenset({OperatorClass.REDUCTION})
