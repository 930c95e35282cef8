"""What of an operator takes time on a device: the regressors of a calibrated latency model.

Every class of operator has its own: calls (dispatch), multiply-accumulates, and terms that make its
efficiency saturate and step. For a product (M, K) x (K, N) the efficiency grows with each width as
M K N / (M K N + a M K + b K N + c M N) does, so the operands' sizes are regressors beside the
product of all three; rows are rounded up to whole tiles.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from autotok.counting.operators import OperatorClass

Sizes = Sequence[int]
TILE = 16
"""Rows that a vectorised matrix product handles at once."""
GRAIN_BYTES = 131_072
"""Below this, torch runs a pointwise operator on one thread, and it stays in the cache."""
COSTLY = frozenset(
    "gelu gelu_ exp exp_ log log_ sigmoid tanh erf silu pow elu elu_ sin cos sqrt rsqrt".split()
)
NORMS = frozenset("native_layer_norm native_group_norm native_batch_norm".split())
SOFTMAX = frozenset("_softmax softmax _log_softmax _safe_softmax".split())
SCATTERS = frozenset(
    """scatter scatter_ scatter_add scatter_add_ scatter_reduce scatter_reduce_ index_add index_add_
    index_put index_put_""".split()
)
SEARCHES = frozenset(
    "argmax argmin max min any all cumsum logsumexp var std var_mean median".split()
)
"""Reductions that look at one element after the other."""
CHOICES = frozenset(
    "where masked_fill masked_fill_ eq ne lt le gt ge logical_and logical_or logical_not".split()
)
"""Pointwise operators with truth values among their tensors."""
_BY_CLASS = {
    "linear": "calls macs tiles input weight output",
    "batched": "calls matrices macs operands output",
    "attention": "calls macs map rows masked",
    "conv": "calls macs bytes",
    "norm": "calls elements",
    "softmax": "calls elements",
    "costly": "calls elements",
    "pointwise": "calls bytes far_bytes",
    "choice": "calls elements",
    "reduction": "calls bytes",
    "search": "calls bytes",
    "sort": "calls elements",
    "gather": "calls bytes",
    "scatter": "calls bytes crowded_bytes",
    "copy": "calls bytes far_bytes",
    "other": "calls bytes",
    "view": "calls",
}
_BY_ELEMENT = {"norm": NORMS, "softmax": SOFTMAX, "costly": COSTLY, "choice": CHOICES}
FEATURES = tuple(f"{kind}.{what}" for kind, names in _BY_CLASS.items() for what in names.split())
"""Names in a fixed order; each is 'class.what'."""


def operator_features(
    name: str,
    kind: OperatorClass,
    inputs: Sequence[Sizes],
    outputs: Sequence[Sizes],
    *,
    touched: int,
    macs: int,
    crowded: bool = False,
) -> dict[str, float]:
    """Regressors of one operator by name; those left out are 0.

    Args:
        name: ATen's.
        kind: Its class.
        inputs: Shapes of the tensors taken.
        outputs: Shapes of the tensors given.
        touched: Bytes read and written.
        macs: Multiply-accumulates.
        crowded: Many elements are added to one address, which a processor does one by one: so it is
            where pooled tokens, all near the middle of the image, look positions up.
    """
    if kind is OperatorClass.VIEW:
        return {"view.calls": 1}
    if kind is OperatorClass.MATMUL:
        return _product(inputs, macs)
    if kind is OperatorClass.ATTENTION:
        return _attention(inputs, macs)
    if kind is OperatorClass.CONV:
        return {"conv.calls": 1, "conv.macs": macs, "conv.bytes": touched}
    made = math.prod(outputs[0]) if outputs else math.prod(inputs[0]) if inputs else 0
    read = math.prod(inputs[0]) if inputs else 0
    for family, names in _BY_ELEMENT.items():
        if name in names:
            return {f"{family}.calls": 1, f"{family}.elements": made}
    if kind is OperatorClass.SORT:
        last = inputs[0][-1] if inputs and len(inputs[0]) else 1
        return {"sort.calls": 1, "sort.elements": read * math.log2(max(last, 2))}
    family = {
        OperatorClass.ELEMENTWISE: "pointwise",
        OperatorClass.REDUCTION: "search" if name in SEARCHES else "reduction",
        OperatorClass.GATHER: "scatter" if name in SCATTERS else "gather",
        OperatorClass.COPY: "copy",
    }.get(kind, "other")
    found: dict[str, float] = {f"{family}.calls": 1, f"{family}.bytes": touched}
    if f"{family}.far_bytes" in FEATURES:
        found[f"{family}.far_bytes"] = max(touched - GRAIN_BYTES, 0)
    if crowded and family == "scatter":
        found["scatter.crowded_bytes"] = touched
    return found


def _product(inputs: Sequence[Sizes], macs: int) -> dict[str, float]:
    left, right = inputs[-2:]  # a third tensor, which comes first, is what is added
    result = math.prod(left[:-1]) * (right[-1] if len(right) > 1 else 1)
    if len(left) > 2:
        return {
            "batched.calls": 1,
            "batched.matrices": left[0],
            "batched.macs": macs,
            "batched.operands": math.prod(left) + math.prod(right),
            "batched.output": result,
        }
    rows = math.prod(left[:-1])
    return {
        "linear.calls": 1,
        "linear.macs": macs,
        "linear.tiles": -(-rows // TILE) * TILE * math.prod(right),
        "linear.input": math.prod(left),
        "linear.weight": math.prod(right),
        "linear.output": result,
    }


def _attention(inputs: Sequence[Sizes], macs: int) -> dict[str, float]:
    rows, cells = math.prod(inputs[0][:-1]), math.prod(inputs[0][:-1]) * inputs[1][-2]
    return {
        "attention.calls": 1,
        "attention.macs": macs,
        "attention.map": cells,
        "attention.rows": rows,
        "attention.masked": cells if len(inputs) > 3 else 0,
    }
