"""Time of an operator on a target: a roofline with efficiencies, or terms that were calibrated.

roofline   kernels * start + max(macs' / (efficiency * peak), bytes / bandwidth)
           macs' rounds a product's rows up to whole tiles, and grows by half_width / K and
           half_width / N, so that its efficiency saturates with the widths K and N
terms      sum of microseconds * amount over the regressors of `regressors.py`
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from autotok.counting.operators import OperatorClass

from .regressors import operator_features
from .target import Target
from .target_parts import Setting
from .trace import Operator

_PRODUCTS = {
    OperatorClass.MATMUL: "matmul",
    OperatorClass.CONV: "conv",
    OperatorClass.ATTENTION: "attention",
}
_POINTWISE = frozenset({OperatorClass.ELEMENTWISE, OperatorClass.COPY})
_EPILOGUES = frozenset({*_PRODUCTS, OperatorClass.REDUCTION})


def device_ms(
    kernels: Sequence[Operator], target: Target, how: Setting, *, dtype: str, pooled: bool = False
) -> float:
    """Milliseconds the kernels take, dispatch not included where the setting has a roofline."""
    if how.terms is None:
        return sum(_roofline_ms(k, target, how, dtype) for k in kernels if k.launches)
    target.check_dtype(dtype)
    times, found = how.terms.microseconds, features_of(kernels, pooled=pooled)
    return sum(times.get(name, 0.0) * amount for name, amount in found.items()) / 1e3


def features_of(operators: Sequence[Operator], *, pooled: bool) -> dict[str, float]:
    """Regressors of a model, summed over its operators; `pooled` as in `Trace`."""
    found: dict[str, float] = {}
    for operator in operators:
        touched = operator.bytes_read + operator.bytes_written
        for name, amount in operator_features(
            operator.name,
            operator.kind,
            operator.inputs,
            operator.outputs,
            touched=touched,
            macs=operator.macs,
            crowded=pooled,
        ).items():
            found[name] = found.get(name, 0.0) + amount
    return found


def _roofline_ms(kernel: Operator, target: Target, how: Setting, dtype: str) -> float:
    """The start is what makes small kernels less efficient than large ones of the same class."""
    bandwidth = 1e6 * target.bandwidth_gb_s.value * how.efficiency["bandwidth"].value  # bytes/ms
    share = how.efficiency[_PRODUCTS.get(kernel.kind, "matmul")].value
    rate = 1e6 * target.peak(dtype) * share  # macs/ms
    touched = kernel.bytes_read + kernel.bytes_written
    busy = max(_effective_macs(kernel, how) / rate, touched / bandwidth)
    return how.kernel_start_us.value / 1e3 * kernel.launches + busy


def _effective_macs(kernel: Operator, how: Setting) -> float:
    """Multiply-accumulates, with what tiles waste and narrow products lose."""
    macs: float = kernel.macs
    if kernel.kind is not OperatorClass.MATMUL or len(kernel.inputs) < 2:
        return macs
    left, right = kernel.inputs[-2], kernel.inputs[-1]
    if how.tile_rows is not None and len(left) > 1:
        rows, tile = left[-2], how.tile_rows.value
        macs *= math.ceil(rows / tile) * tile / max(rows, 1)
    if how.half_width is not None and len(right) > 1:
        half = how.half_width.value
        macs *= 1 + half / max(right[-2], 1) + half / max(right[-1], 1)
    return macs


def fused(kernels: Sequence[Operator], fusion: str) -> list[Operator]:
    """The kernels a compiler makes of them: neighbouring pointwise ones become one.

    'pointwise' joins runs of pointwise operators, which then read what the first reads and write
    what the last writes; 'epilogue' also hides them behind the product or norm before them.
    """
    if fusion == "none":
        return list(kernels)
    hosts = _POINTWISE if fusion == "pointwise" else _POINTWISE | _EPILOGUES
    found: list[Operator] = []
    for kernel in kernels:
        if not kernel.launches:
            continue
        last = found[-1] if found else None
        if last is not None and last.kind in hosts and kernel.kind in _POINTWISE:
            read = last.bytes_read + max(kernel.bytes_read - last.bytes_written, 0)
            written = kernel.bytes_written
            found[-1] = dataclasses.replace(last, bytes_read=read, bytes_written=written)
            continue
        found.append(kernel)
    return found
