"""`Shape`: where tokens go and in which proportion; how many is one scalar, its strength.

Strength 0 removes nothing, strength 1 is the most the method can take at these layers. Repair
solves the strength from the budget; the shape stays as proposed.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import pairwise
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from autotok.config import CompressionConfig, Options, Primitive, Reduction, Subnet
from autotok.exits import ExitPolicy
from autotok.facts import BackboneFacts
from autotok.methods.base import Span, TokenReducer
from autotok.methods.registry import get_method

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
    options: Options = field(default_factory=dict)
    subnet: Subnet | None = None
    number_format: str = "float32"
    """Of the file that is shipped and judged."""
    image_size: int | None = None
    """Side in pixels that the model runs on; None: its own. Facts given below are of that one."""
    backbone: str = ""
    """Of several; facts given below are this one's."""
    exits: ExitPolicy | None = None
    """Where images stop early; how many do follows from the strength."""
    exit_share: float = 1.0
    """Of what exits can save at the most, how much they do at strength 1 beside reductions."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))

    def within(self, depth: int) -> Shape:
        """The shape without reduction layers that a model of so many blocks does not have."""
        if not self.layers or self.layers[-1] < depth:
            return self
        count = sum(layer < depth for layer in self.layers)
        weights = self.weights[:count]
        if not count or weights[-1] <= 0.0:
            return dataclasses.replace(self, layers=(), weights=())
        rising = tuple(w / weights[-1] for w in weights)
        return dataclasses.replace(self, layers=self.layers[:count], weights=rising)

    @property
    def reducer(self) -> type[TokenReducer]:
        """The method's class."""
        return get_method(self.method)

    @cached_property
    def acting(self) -> tuple[type[TokenReducer], str]:
        """The method's class, then its name and options as text: the same for the same ones."""
        return self.reducer, json.dumps([self.method, dict(self.options)], sort_keys=True)

    def counts(self, strengths: NDArray[np.float64], facts: BackboneFacts) -> Counts:
        """(M, S) patch tokens left after each layer, never rising along a row.

        Where the curve asks for more than the method can take in one layer (half, for matching
        methods), that layer takes the most it can, as their authors' code does, and later layers
        catch up.
        """
        total = facts.at_size(self.image_size).num_patches
        if not self.layers:
            return np.zeros((len(strengths), 0), dtype=np.int64)
        steepest = 1.0 / next(w for w in self.weights if w > 0.0)
        amount = np.outer(strengths * steepest, self.weights)  # (M, S)
        if self.curve == "geometric":
            kept = np.exp(-np.minimum(amount, 1.0) * np.log(total)) * total
        else:
            kept = np.maximum(1.0 - amount, 0.0) * total
        asked: Counts = np.floor(kept + 0.5).astype(np.int64)
        low, high = _ranges(self.acting, total)
        entering = np.full(len(asked), total, dtype=np.int64)
        for column in range(asked.shape[1]):
            wanted = np.maximum(asked[:, column], low[entering])
            reduced = np.minimum(wanted, high[entering])
            asked[:, column] = np.where(wanted >= entering, entering, reduced)
            entering = entering if self._parks else asked[:, column]
        return asked

    @property
    def _parks(self) -> bool:
        """Every layer chooses among all tokens again."""
        return self.reducer.lasts(self.options) is not Span.REST

    def stopping(self, strengths: NDArray[np.float64]) -> NDArray[np.float64]:
        """(M,) how far the mean cost is on the way from nobody stopping early to everybody at the
        first exit."""
        return strengths * (self.exit_share if self.layers else 1.0)

    def blocked_at(self, facts: BackboneFacts) -> str:
        """What stops the strongest reduction of this shape, in words."""
        if not self.layers:
            return "nothing is taken away"
        counts = self.counts(np.ones(1), facts)[0].tolist()
        facts = facts.at_size(self.image_size)
        everything = [facts.num_patches] * len(counts)
        entering = everything if self._parks else [facts.num_patches, *counts[:-1]]
        last = f"{counts[-1]} of {facts.num_patches} tokens are left after layer {self.layers[-1]}"
        for layer, arriving, keep in zip(self.layers, entering, counts, strict=True):
            low, high = self.reducer.feasible(arriving, self.options)
            if keep == low > 1:
                return (
                    f"of {arriving} tokens entering layer {layer} it can keep {low} to {high},"
                    f" and {last}; act in earlier or more layers"
                )
        return f"{last}; act in earlier layers"

    def config(self, counts: NDArray[np.int64], facts: BackboneFacts) -> CompressionConfig:
        """The configuration with explicit counts (S,), without layers that remove nothing."""
        entering, reductions = facts.at_size(self.image_size).num_patches, []
        for layer, keep in zip(self.layers, counts.tolist(), strict=True):
            if keep != entering:
                reductions.append(Reduction(layer, num_keep=int(keep)))
            entering = entering if self._parks else keep
        method, options = (self.method, self.options) if reductions else ("none", {})
        return CompressionConfig(
            method=method,
            reductions=tuple(reductions),
            options=dict(sorted(options.items())),
            subnet=self.subnet,
            number_format=self.number_format,
            image_size=self.image_size,
            backbone=self.backbone,
            exits=self.exits,
        )


@lru_cache(maxsize=512)
def _ranges(acting: tuple[type[TokenReducer], str], total: int) -> tuple[Counts, Counts]:
    """(N0 + 1,) lowest and highest count the method can leave of each entering count."""
    method, options = acting[0], json.loads(acting[1])[1]
    pairs = [(0, 0)] + [method.feasible(n, options) for n in range(1, total + 1)]
    low, high = np.array(pairs, dtype=np.int64).T
    return np.maximum(low, 1), high


def fitted_schedule(
    layers: Sequence[int], ratios: Sequence[float], depth: int
) -> dict[str, Primitive]:
    """Answers about the schedule of a search space that are nearest to keep ratios at layers."""
    kept = np.concatenate([[1.0], np.maximum(np.asarray(ratios, dtype=float), 1e-3)])
    logs, drops = -np.diff(np.log(kept)), -np.diff(kept)
    first, last = min(layers), max(layers)
    fitted: dict[str, Primitive] = {"first_layer": first, "num_stages": len(layers)}
    if len(layers) <= 4:
        rise = [b / a for a, b in pairwise(logs) if a > 1e-9 and b > 1e-9]
        taper = float(np.exp(np.mean(np.log(rise)))) if rise else 1.0
        spacing = (last - first) / max(1, depth - 1 - first)
        return {**fitted, "family": "stages", "spacing": spacing, "taper": taper}
    if np.std(logs) / max(1e-9, np.mean(logs)) < np.std(drops) / max(1e-9, np.mean(drops)):
        return {**fitted, "family": "ratio"}
    slope = np.polyfit(np.linspace(-1.0, 1.0, len(drops)), drops, 1)[0]
    return {**fitted, "family": "every", "inflection": float(slope / max(1e-9, np.mean(drops)))}
