"""Predictions of thousands of configurations at once, equal to those of single traces.

Configurations that differ in token counts alone run the same operators on other sizes. A few of
them are traced; every size becomes a function of the counts (`forms.py`), and the formulas of
`predict.py` are then computed for all at once.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autotok.compression.schedule import Schedule
from autotok.counting.operators import OperatorClass

from .latency_model import Kernel, device_ms, fused
from .predict import latency_of, memory_of
from .regressors import Amount, product_macs, total
from .symbolic_sizes import Columns, Counts, Inexpressible, SymbolicSizes, fit_symbolic_sizes
from .target import Setting, Target
from .trace import Operator, Trace

__all__ = ["Array", "SymbolicTrace"]

Array = NDArray[np.float64]
_PRODUCTS = (OperatorClass.MATMUL, OperatorClass.ATTENTION)


@dataclass(frozen=True)
class _Call:
    """An operator with the numbers of forms in place of sizes."""

    name: str
    kind: OperatorClass
    inputs: tuple[tuple[int, ...], ...]
    outputs: tuple[tuple[int, ...], ...]
    touched: tuple[tuple[int, ...], ...]
    launches: int
    macs: int | None
    """None: those of a product of its sizes."""


@dataclass(frozen=True)
class SymbolicTrace:
    """What configurations of one shape run."""

    columns: Columns
    forms: SymbolicSizes
    calls: tuple[_Call, ...]
    live: NDArray[np.float64]
    """(moments, storages): how many of each are held."""
    storages: tuple[tuple[int, ...], ...]
    """Forms of their sizes."""
    weights: int
    """Form of the bytes of the weights, which some methods have for every token kept."""
    dtype: str
    pooled: bool

    @classmethod
    def of(
        cls, traces: Sequence[Trace], schedules: Sequence[Schedule], columns: Columns
    ) -> SymbolicTrace:
        """The program that all traces are runs of.

        Raises:
            Inexpressible: they are no runs of one program.
        """
        first = traces[0]
        for other in traces[1:]:
            if _structure(other) != _structure(first):
                raise Inexpressible("the operators themselves depend on the counts")
        calls, lives = len(first.operators), len(first.lives)
        places = [_block(i, first.marks) for i in range(calls)]
        places += [_block(life.first, first.marks) for life in first.lives]
        sizes = [np.array(rows) for rows in zip(*map(_sizes, traces), strict=True)]
        near = [columns.near(place) for place in places]
        sizes.append(np.array([[traced.weight_bytes] for traced in traces]))
        near.append(columns.kept)
        forms, numbers = fit_symbolic_sizes(sizes, near, columns.table(schedules))
        live, storages = _held(first, numbers[calls : calls + lives])
        return cls(
            columns=columns,
            forms=forms,
            calls=tuple(map(_call, first.operators, numbers[:calls])),
            live=live,
            storages=storages,
            weights=numbers[-1][0],
            dtype=first.dtype,
            pooled=first.pooled,
        )

    def predict(self, table: Counts, target: Target, how: Setting) -> tuple[Array, Array]:
        """((N,) ms, (N,) MB) of (N, V) counts; not a number where a size falls below two."""
        sizes = self.forms(table)
        fixed = self.forms.constant
        values: list[Amount] = [
            int(column[0]) if same else column for column, same in zip(sizes.T, fixed, strict=True)
        ]
        host, device = self._times(values, target, how)
        held = [
            np.broadcast_to(total([values[f] for f in forms]), len(table))
            for forms in self.storages
        ]
        peak = (self.live @ np.array(held, dtype=np.float64)).max(axis=0)
        latency = np.broadcast_to(latency_of(host, device, how), len(table)).astype(np.float64)
        memory = np.asarray(memory_of(values[self.weights], peak, how))
        small = (sizes[:, ~fixed] < 2).any(axis=1)
        latency[small], memory[small] = np.nan, np.nan
        return latency, memory

    def _times(
        self, values: Sequence[Amount], target: Target, how: Setting
    ) -> tuple[float, Amount]:
        """Milliseconds of the host and of the device."""
        if how.fusion == "none":
            counted = Counter(self.calls)
            pairs = [(_kernel(call, values), times) for call, times in counted.items()]
        else:
            pairs = [(k, 1) for k in fused([_kernel(c, values) for c in self.calls], how.fusion)]
        launches = sum(kernel.launches * times for kernel, times in pairs)
        busy: Amount = 0.0
        for kernel, times in pairs:
            own = device_ms([kernel], target, how, dtype=self.dtype, pooled=self.pooled)
            busy = busy + times * own
        return how.dispatch_us.value * launches / 1e3, busy


def _structure(traced: Trace) -> object:
    """What runs of one program have in common."""
    return (
        [
            (op.name, op.kind, op.dtype, op.launches, *map(len, _shapes(op)), _own_macs(op))
            for op in traced.operators
        ],
        [(life.first, life.last, len(life.sizes)) for life in traced.lives],
        traced.marks,
    )


def _shapes(operator: Operator) -> list[tuple[int, ...]]:
    return [*operator.inputs, *operator.outputs, *operator.touched]


def _own_macs(operator: Operator) -> int | None:
    """None where the sizes say how many."""
    product = operator.kind in _PRODUCTS
    if product and product_macs(operator.inputs, operator.kind) == operator.macs:
        return None
    return operator.macs


def _sizes(traced: Trace) -> list[list[int]]:
    """All sizes of every operator, then of every storage."""
    rows = [[size for shape in _shapes(op) for size in shape] for op in traced.operators]
    return rows + [list(life.sizes) for life in traced.lives]


def _block(operator: int, marks: Sequence[int]) -> int:
    """The block an operator is in; -1 before the first, their number in the read-out."""
    return bisect_right(marks, operator) - 1


def _call(operator: Operator, forms: Sequence[int]) -> _Call:
    numbers = iter(forms)

    def taken(shapes: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(itertools.islice(numbers, len(shape))) for shape in shapes)

    return _Call(
        operator.name,
        operator.kind,
        taken(operator.inputs),
        taken(operator.outputs),
        taken(operator.touched),
        operator.launches,
        _own_macs(operator),
    )


def _kernel(call: _Call, values: Sequence[Amount]) -> Kernel:
    """A call at the counts that the values of all forms stand for."""
    inputs, outputs, touched = (
        [[values[form] for form in shape] for shape in shapes]
        for shapes in (call.inputs, call.outputs, call.touched)
    )
    bytes_ = [total(sizes) for sizes in touched]
    return Kernel(
        call.name,
        call.kind,
        inputs,
        outputs,
        read=sum(bytes_[: len(inputs)], start=0),
        written=sum(bytes_[len(inputs) :], start=0),
        macs=product_macs(inputs, call.kind) if call.macs is None else call.macs,
        launches=call.launches,
    )


def _held(
    traced: Trace, forms: Sequence[Sequence[int]]
) -> tuple[Array, tuple[tuple[int, ...], ...]]:
    """((moments, storages) how many are held, forms of each storage), each row and storage once."""
    storages = {tuple(sorted(sizes)): index for index, sizes in enumerate(map(sorted, forms))}
    names = {key: column for column, key in enumerate(storages)}
    change = np.zeros((len(traced.operators) + 2, len(names)))
    for life, sizes in zip(traced.lives, forms, strict=True):
        column = names[tuple(sorted(sizes))]
        change[life.first, column] += 1
        change[max(life.last, life.first - 1) + 1, column] -= 1
    return np.unique(np.cumsum(change, axis=0), axis=0), tuple(names)
