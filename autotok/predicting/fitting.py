"""Terms of a latency model from measured configurations: non-negative least squares.

Relative errors count, not milliseconds. A few dozen measurements cannot settle forty terms alone,
so each is drawn towards what it typically is on a processor, at the speed of the machine at hand;
the pull is weak, so whatever the measurements settle, they decide. Single outliers (a neighbour's
burst) are weighed down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .regressors import FEATURES

Array = NDArray[np.float64]
FIXED = "fixed"
"""The name of the term that every forward pays once."""
NAMES = (FIXED, *FEATURES)
PULL = 3e-4
ROUNDS = 3
RIDGE = 1e-3
_CALL_US = 5.0
_TYPICAL_US: Mapping[str, float] = {
    # microseconds per unit of one core with AVX-512; only their proportions matter
    FIXED: 200.0,
    "view.calls": 1.0,
    "sort.calls": 20.0,
    "linear.macs": 1e-5,
    "linear.tiles": 1e-5,
    "linear.input": 1e-4,
    "linear.weight": 3e-4,
    "linear.output": 1e-4,
    "batched.matrices": 1.0,
    "batched.macs": 2e-5,
    "batched.operands": 1e-4,
    "batched.output": 1e-4,
    "attention.macs": 2e-5,
    "attention.map": 1e-3,
    "attention.rows": 1e-3,
    "attention.masked": 5e-4,
    "conv.macs": 2e-5,
    "conv.bytes": 5e-5,
    "norm.elements": 1e-3,
    "softmax.elements": 1e-3,
    "costly.elements": 1e-3,
    "pointwise.bytes": 3e-5,
    "pointwise.far_bytes": 3e-5,
    "choice.elements": 1e-3,
    "reduction.bytes": 3e-5,
    "search.bytes": 2.5e-4,
    "sort.elements": 3e-3,
    "gather.bytes": 1e-4,
    "scatter.bytes": 2.5e-4,
    "scatter.crowded_bytes": 1e-4,
    "copy.bytes": 4e-5,
    "copy.far_bytes": 4e-5,
    "other.bytes": 1e-4,
}
_TYPICAL = np.array([_TYPICAL_US.get(name, _CALL_US) for name in NAMES])


@dataclass(frozen=True)
class FitCheck:
    """How predictions did on configurations that were not used to fit."""

    count: int
    within_5_pct: float
    within_10_pct: float
    rank_correlation: float | None
    """None where there are fewer than three, or all of one side are alike."""
    worst_pct: float


def row_of(features: Mapping[str, float]) -> Array:
    """(T,) amounts in the order of the terms, from regressors by name; the fixed term is 1."""
    return np.array([1.0, *(float(features.get(name, 0.0)) for name in FEATURES)])


def fit_terms(amounts: Array, latencies_us: Array, *, pull: float = PULL) -> Array:
    """(T,) microseconds per unit, none negative, of rows (M, T) that took so long (M,)."""
    from sklearn.linear_model import LinearRegression

    speed = float(np.median(latencies_us / (amounts @ _TYPICAL)))
    typical = _TYPICAL * speed
    shares = amounts * typical / latencies_us[:, None]
    terms, rows = len(NAMES), len(latencies_us)
    design = np.vstack([shares, np.sqrt(pull) * np.eye(terms)])
    aim = np.concatenate([np.ones(rows), np.full(terms, np.sqrt(pull))])
    weights = np.ones(rows + terms)
    found = np.ones(terms)
    for _ in range(ROUNDS):
        model = LinearRegression(positive=True, fit_intercept=False)
        found = model.fit(design * weights[:, None], aim * weights).coef_
        errors = np.abs(design[:rows] @ found - 1)
        usual = max(3 * float(np.median(errors)), 0.01)
        weights[:rows] = np.sqrt(1 / np.maximum(1, errors / usual))
    coefficients: Array = found * typical
    return coefficients


def check(predicted: Array, measured: Array) -> FitCheck:
    """Errors of predictions, relative to what was measured."""
    from scipy.stats import spearmanr

    errors = 100 * np.abs(predicted / measured - 1)
    ranked = len(errors) > 2 and np.ptp(predicted) > 0 and np.ptp(measured) > 0
    rank = float(spearmanr(predicted, measured).statistic) if ranked else None
    return FitCheck(
        count=len(errors),
        within_5_pct=100 * float(np.mean(errors <= 5)),
        within_10_pct=100 * float(np.mean(errors <= 10)),
        rank_correlation=rank,
        worst_pct=float(errors.max()),
    )


def informative(amounts: Array, count: int, *, start: Sequence[int] = ()) -> list[int]:
    """Indices of `count` rows of (M, T) that settle the terms best: greedily D-optimal.

    What matters is each term's share of the expected time. `start` are rows measured anyway.
    """
    shares = amounts * _TYPICAL
    shares = shares / shares.sum(axis=1, keepdims=True)
    inverse = np.eye(shares.shape[1]) / RIDGE
    chosen: list[int] = []
    left = [i for i in range(len(shares)) if i not in set(start)]

    def learn(row: Array) -> None:
        seen = inverse @ row
        inverse[:] = inverse - np.outer(seen, seen) / (1 + row @ seen)

    for index in start:
        learn(shares[index])
    while left and len(chosen) < count:
        gains = np.einsum("ij,jk,ik->i", shares[left], inverse, shares[left])
        chosen.append(left.pop(int(np.argmax(gains))))
        learn(shares[chosen[-1]])
    return chosen
