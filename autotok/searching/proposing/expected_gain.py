"""How far a candidate is expected to move the front, by what is believed of it.

In closed form where the other objective is the exact cost (Emmerich et al., "Single- and
multiobjective evolutionary optimization assisted by Gaussian random field metamodels", IEEE TEC
2006), else by scalarisations drawn at random (Knowles, "ParEGO", IEEE TEC 2006).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

_DRAWS = 64
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Belief:
    """One objective, as a loss: of the candidates (m,), and of what was seen (n,)."""

    means: Floats
    deviations: Floats
    seen: Floats
    worst: float
    """Beyond it nothing counts."""
    exact: bool


def expected_gain(beliefs: Sequence[Belief], rng: np.random.Generator) -> Floats:
    """(m,) how much each candidate is expected to move the front."""
    if len(beliefs) == 2 and [b.exact for b in beliefs].count(True) == 1:
        cost, quality = sorted(beliefs, key=lambda b: not b.exact)
        return _hypervolume_gain(cost, quality)
    return _scalar_gain(beliefs, rng)


def _hypervolume_gain(cost: Belief, quality: Belief) -> Floats:
    """(m,) expected gain of the area between the front and (cost of the uncompressed model, quality
    of guessing); the front is that of the means at what was seen."""
    order = np.argsort(cost.seen, kind="stable")
    edges = np.concatenate([[0.0], cost.seen[order], [cost.worst]])
    levels = np.minimum.accumulate(np.concatenate([[quality.worst], quality.seen[order]]))
    falls = np.concatenate([[True], levels[1:] < levels[:-1]])  # the front's own steps
    levels, edges = levels[falls], np.append(edges[:-1][falls], edges[-1])
    begin = np.maximum(edges[:-1], cost.means[:, None])
    widths = np.maximum(edges[1:] - begin, 0.0)  # (m, steps)
    row, step = np.nonzero(widths)  # about half: steps of the front that a candidate's cost reaches
    widths[row, step] *= _expected_fall(levels[step], quality.means[row], quality.deviations[row])
    return np.sum(widths, axis=1)  # type: ignore[no-any-return]


def _expected_fall(levels: Floats, means: Floats, deviations: Floats) -> Floats:
    """(k,) how far below each level a normal variable is expected to be, where it is below."""
    deviations = np.maximum(deviations, 1e-12)
    z = (levels - means) / deviations
    density = np.exp(-0.5 * z**2) / math.sqrt(2.0 * math.pi)
    return (levels - means) * ndtr(z) + deviations * density  # type: ignore[no-any-return]


def _scalar_gain(beliefs: Sequence[Belief], rng: np.random.Generator) -> Floats:
    """(m,) expected improvement of one augmented Chebyshev scalarisation with random weights."""
    weights = rng.dirichlet(np.ones(len(beliefs)))
    seen = np.stack([b.seen if len(b.seen) else [b.worst] for b in beliefs], axis=-1)
    low = np.array([(b.seen if len(b.seen) else b.means).min() for b in beliefs])
    wide = np.maximum(seen.max(axis=0) - low, 1e-12)

    def scalar(columns: Floats) -> Floats:  # (..., objectives)
        scaled = weights * (columns - low) / wide
        return scaled.max(axis=-1) + 0.05 * scaled.sum(axis=-1)  # type: ignore[no-any-return]

    best = float(scalar(seen).min())
    draws = rng.standard_normal((_DRAWS, 1, len(beliefs)))
    means = np.stack([b.means for b in beliefs], axis=-1)
    deviations = np.stack([b.deviations for b in beliefs], axis=-1)
    values = scalar(means + deviations * draws)  # (draws, m)
    return np.maximum(best - values, 0.0).mean(axis=0)  # type: ignore[no-any-return]
