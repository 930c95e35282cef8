"""`Shape`: where tokens go and in which proportion; how many is one scalar, its strength.

Strength 0 removes nothing, strength 1 is the deepest the curve goes (one token left). Repair solves
the strength from the budget; the shape stays as proposed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from autotok.config import CompressionConfig, Primitive, Reduction, SubnetSpec
from autotok.facts import BackboneFacts
from autotok.methods.base import TokenReducer
from autotok.methods.registry import get_method

__all__ = ["CURVES", "Shape"]

CURVES = ("geometric", "linear")
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Shape:
    """A configuration but for its strength."""

    method: str
    layers: tuple[int, ...]
    weights: tuple[float, ...]
    """Share of the whole reduction reached after each layer, rising to 1."""
    curve: str = "geometric"
    """'geometric': keep ratios multiply, as stage ratios do; 'linear': removals add, as r does."""
    options: Mapping[str, Primitive] = field(default_factory=dict)
    mode: str = "plug-in"
    subnet: SubnetSpec | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))

    @property
    def reducer(self) -> type[TokenReducer]:
        """The method's class."""
        return get_method(self.method)

    def counts(self, strengths: NDArray[np.float64], facts: BackboneFacts) -> Counts:
        """(M, S) patch tokens left after each layer, never rising along a row."""
        total = facts.num_patches
        amount = np.outer(strengths, self.weights)  # (M, S)
        if self.curve == "geometric":
            kept = np.exp(-amount * np.log(total)) * total
        else:
            kept = (1.0 - amount) * total
        rounded = np.maximum(np.floor(kept + 0.5), 1).astype(np.int64)
        return np.minimum.accumulate(rounded, axis=1)

    def reachable(self, counts: Counts, facts: BackboneFacts) -> NDArray[np.bool_]:
        """(M,) whether the method can make each row of counts."""
        entering = np.concatenate(
            [np.full((len(counts), 1), facts.num_patches, dtype=np.int64), counts[:, :-1]], axis=1
        )
        pairs = np.stack([entering.ravel(), counts.ravel()], axis=1)  # (M * S, 2)
        limits = {n: self.reducer.feasible(int(n), self.options) for n in np.unique(entering)}
        low = np.array([limits[n][0] for n in pairs[:, 0]])
        high = np.array([limits[n][1] for n in pairs[:, 0]])
        good = (pairs[:, 0] == pairs[:, 1]) | ((low <= pairs[:, 1]) & (pairs[:, 1] <= high))
        return np.asarray(good.reshape(counts.shape).all(axis=1))

    def blocked_at(self, counts: Counts, facts: BackboneFacts) -> str:
        """Which layer of one row (S,) the method cannot make, and its feasible range, in words."""
        entering = facts.num_patches
        for layer, keep in zip(self.layers, counts.tolist(), strict=True):
            low, high = self.reducer.feasible(entering, self.options)
            if keep != entering and not low <= keep <= high:
                return f"of {entering} tokens entering layer {layer} it can keep {low} to {high}"
            entering = keep
        return "it reaches one token"

    def config(self, counts: NDArray[np.int64], facts: BackboneFacts) -> CompressionConfig:
        """The configuration with explicit counts (S,); layers with nothing to remove are left out."""
        entering, reductions = facts.num_patches, []
        for layer, keep in zip(self.layers, counts.tolist(), strict=True):
            if keep != entering:
                reductions.append(Reduction(layer, num_keep=int(keep)))
            entering = keep
        if not reductions:
            return CompressionConfig(subnet=self.subnet)
        return CompressionConfig(
            method=self.method,
            reductions=tuple(reductions),
            options=dict(sorted(self.options.items())),
            mode=self.mode,
            subnet=self.subnet,
        )
