"""A Gaussian process whose kernel knows what two configurations share.

Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), equations 2.23 to 2.30. The
hyper-parameters are those of a small grid with the largest marginal likelihood: a hundred points
say no more about them, and a grid always gives the same answer.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.linalg.blas import dtrsm

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Inputs:
    """(n, ...) rows: configurations as the kernel sees them."""

    profile: Floats
    """(n, bins) tokens left by depth, and anything else every method has."""
    removed: Floats
    """(n,) 0 for the uncompressed model, which all methods have in common, up to 1: how much the
    method matters."""
    method: NDArray[np.int64]
    """(n,) number of the method."""
    kind: NDArray[np.int64]
    """(n,) number of its kind: prune, merge, pool."""
    details: Floats
    """(n, d) options and other answers, 0 to 1; those of another method are 0.5."""

    @classmethod
    def joined(cls, parts: Sequence[Inputs]) -> Inputs:
        """One after the other."""
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        return cls(*map(np.concatenate, columns))

    def take(self, rows: NDArray[np.int64]) -> Inputs:
        """Some of the rows."""
        return Inputs(*(column[rows] for column in vars(self).values()))


@dataclass(frozen=True)
class Hyper:
    """What the marginal likelihood decides."""

    length: float
    """Root mean square difference of profiles over which quality changes."""
    shared: float
    """Share of the variance that depends on the tokens alone, whatever the method."""
    kinship: float
    """Correlation between methods of one kind."""
    noise: float
    """Variance of an observation beyond its own interval, over that of the signal."""


_GRID = [
    Hyper(*values)
    for values in itertools.product(
        (0.15, 0.3, 0.6), (0.3, 0.6, 0.9), (0.1, 0.6), (0.003, 0.03, 0.1)
    )
]
USUAL = Hyper(length=0.3, shared=0.6, kinship=0.6, noise=0.03)
"""The middle of the grid, where observations are too few to tell."""
_DETAILS = 0.5
"""Length over which the other answers matter."""


@dataclass(frozen=True)
class Posterior:
    """What the observations say about any other configuration."""

    inputs: Inputs
    hyper: Hyper
    mean: float
    scale: float
    """Standard deviation of the observations."""
    amplitude: float
    """Of the process, in those."""
    factor: tuple[Floats, bool]
    weights: Floats

    def at(self, others: Inputs, across: Floats | None = None) -> tuple[Floats, Floats]:
        """(m,) means and (m,) standard deviations, observation noise left out.

        `across` are the (n, m) covariances of the observations with the others, where known.
        """
        if across is None:
            across = _kernel(self.inputs, others, self.hyper)
        means = self.mean + self.scale * (self.weights @ across)
        solved = dtrsm(1.0, self.factor[0], across.T, side=1, lower=1, trans_a=1)  # (m, n)
        prior = self.hyper.shared + (1.0 - self.hyper.shared) * others.removed**2
        variance = prior - np.einsum("mn,mn->m", solved, solved)
        return means, self.amplitude * self.scale * np.sqrt(np.maximum(variance, 1e-9))


class Covariances:
    """Prior covariances of observations with the same candidates, each row worked out once.

    A row at a time, always: products of matrices round otherwise the more rows they have, and a
    resumed search must propose the same.
    """

    def __init__(self, others: Inputs) -> None:
        self._others = others
        self._known: dict[tuple[Hashable, Hyper], Floats] = {}

    def of(self, inputs: Inputs, names: Sequence[Hashable], hyper: Hyper) -> Floats:
        """(n, m); rows of one name are the same."""
        keys = [(name, hyper) for name in names]
        for row, key in enumerate(keys):
            if key not in self._known:
                one = inputs.take(np.array([row]))
                self._known[key] = _kernel(one, self._others, hyper)[0]
        self._known = {key: self._known[key] for key in keys}
        found = np.array([self._known[key] for key in keys])
        return found.reshape(len(keys), len(self._others.removed))


def best_hyper(inputs: Inputs, values: Floats, variances: Floats) -> Hyper:
    """The member of the grid under which the observations are likeliest."""
    likelihoods = [_fitted(inputs, values, variances, hyper)[1] for hyper in _GRID]
    return _GRID[int(np.argmax(likelihoods))]


def fit(inputs: Inputs, values: Floats, variances: Floats, hyper: Hyper) -> Posterior:
    """The posterior under (n,) observations with the (n,) variances of their errors."""
    return _fitted(inputs, values, variances, hyper)[0]


def _fitted(
    inputs: Inputs, values: Floats, variances: Floats, hyper: Hyper
) -> tuple[Posterior, float]:
    mean, scale = float(np.mean(values)), float(np.std(values)) or 1.0
    wanted = (values - mean) / scale
    noise = hyper.noise + variances / scale**2
    covariance = _kernel(inputs, inputs, hyper) + np.diag(noise + 1e-8)
    factor = cho_factor(covariance, lower=True)
    weights: Floats = cho_solve(factor, wanted)
    amplitude = max(float(wanted @ weights) / len(values), 1e-6)  # the likeliest variance
    determinant = 2.0 * float(np.sum(np.log(np.diag(factor[0]))))
    likelihood = -0.5 * (len(values) * np.log(amplitude) + determinant)
    return Posterior(inputs, hyper, mean, scale, float(np.sqrt(amplitude)), factor, weights), float(
        likelihood
    )


def _kernel(a: Inputs, b: Inputs, hyper: Hyper) -> Floats:
    """(n, m) prior covariances: what the tokens alone explain, what methods of one kind share, and
    what is a method's own."""
    near = _matern(_distances(a.profile, b.profile), hyper.length)
    details = np.exp(-0.5 * (_distances(a.details, b.details) / _DETAILS) ** 2)
    same = (a.method[:, None] == b.method[None, :]) * details
    kin = a.kind[:, None] == b.kind[None, :]
    related = hyper.kinship * kin + (1.0 - hyper.kinship) * same
    own = (1.0 - hyper.shared) * np.outer(a.removed, b.removed)
    return near * (hyper.shared + own * related)  # type: ignore[no-any-return]


def _distances(a: Floats, b: Floats) -> Floats:
    """(n, m) root mean square differences of rows."""
    if not a.shape[1]:
        return np.zeros((len(a), len(b)))
    square = np.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1) - 2.0 * a @ b.T
    return np.sqrt(np.maximum(square, 0.0) / a.shape[1])  # type: ignore[no-any-return]


def _matern(distance: Floats, length: float) -> Floats:
    """Matern with smoothness 5/2 (equation 4.17)."""
    scaled = np.sqrt(5.0) * distance / length
    return (1.0 + scaled + scaled**2 / 3.0) * np.exp(-scaled)  # type: ignore[no-any-return]
