"""AutoFormer's evolutionary search over subnets (arXiv 2107.00651), whatever the fitness is.

A generation is mutations and crossovers of the best subnets seen so far, filled up with random
ones; no subnet is tried twice and none outside the constraint. Candidate `index` of a generation
draws from a stream keyed by (seed, generation, index), so a search that is run again with the
fitness values already known takes the same course.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from autotok.backbones.autoformer import SupernetSpec
from autotok.config import SubnetSpec
from autotok.errors import ConfigError
from autotok.finetune_spec import check_seed

from .sampling import sample_uniform

TRIES = 50
"""Re-draws of one mutation or crossover before the next random candidate takes its place."""
# where so many draws in a row are known or outside the limits, nothing new is left
RANDOM_TRIES = 2000
Gene = TypeVar("Gene")


@dataclass(frozen=True)
class EvolutionSettings:
    """Sizes and probabilities, the published ones by default."""

    population: int = 50
    generations: int = 20
    parents: int = 10
    mutations: int = 25
    crossovers: int = 25
    per_layer: float = 0.2
    """Probability that a layer's heads, and again its MLP ratio, are drawn anew."""
    per_net: float = 0.4
    """Probability that the depth, and again the embedding width, is drawn anew."""
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"population": 1, "generations": 1, "parents": 1, "mutations": 0, "crossovers": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ConfigError(f"{name} is {getattr(self, name)}; give {low} or more")
        if self.mutations + self.crossovers > self.population:
            raise ConfigError(
                f"{self.mutations} mutations and {self.crossovers} crossovers are more than the"
                f" population of {self.population}; give fewer, or a larger population"
            )
        for name in ("per_layer", "per_net"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name} is {getattr(self, name)}; a probability is 0 to 1")
        check_seed(self.seed)


@dataclass(frozen=True)
class SubnetCandidate:
    """A subnet that was tried, and how fit it is (more is better)."""

    subnet: SubnetSpec
    generation: int
    index: int
    origin: str
    """'random', 'mutation' or 'crossover'."""
    fitness: float


@dataclass
class Evolution:
    """The search; `run` it, or look at `tried` in between."""

    spec: SupernetSpec
    settings: EvolutionSettings
    legal: Callable[[SubnetSpec], bool]
    """Whether a subnet meets the constraint."""
    fitness: Callable[[SubnetSpec], float]
    known: Mapping[SubnetSpec, float] = field(default_factory=dict)
    """Values from an earlier run; these are never computed again."""
    on_candidate: Callable[[SubnetCandidate], None] | None = None
    """Told of every new value, as soon as it is there."""
    stop: Callable[[], bool] = lambda: False
    """Asked before every new value is computed."""
    tried: list[SubnetCandidate] = field(default_factory=list)

    def run(self) -> list[SubnetCandidate]:
        """Everything tried, in order; fewer than asked for where `stop` said so or none is left."""
        for generation in range(self.settings.generations):
            drawn = self._draw(generation)
            if not drawn:
                break
            for index, (subnet, origin) in enumerate(drawn):
                if subnet not in self.known and self.stop():
                    return self.tried
                self._try(subnet, generation, index, origin)
        return self.tried

    def best(self, count: int = 1) -> list[SubnetCandidate]:
        """The fittest so far; of equals, the one tried first."""
        return sorted(self.tried, key=lambda c: -c.fitness)[:count]

    def _try(self, subnet: SubnetSpec, generation: int, index: int, origin: str) -> None:
        cached = subnet in self.known
        value = self.known[subnet] if cached else self.fitness(subnet)
        candidate = SubnetCandidate(subnet, generation, index, origin, value)
        self.tried.append(candidate)
        if not cached and self.on_candidate is not None:
            self.on_candidate(candidate)

    def _draw(self, generation: int) -> list[tuple[SubnetSpec, str]]:
        """The subnets of one generation and where they come from, all new and legal."""
        settings, seen = self.settings, {c.subnet for c in self.tried}
        parents = [c.subnet for c in self.best(settings.parents)]
        drawn: list[tuple[SubnetSpec, str]] = []
        for index in range(settings.population):
            rng = np.random.default_rng([settings.seed, generation, index])
            origin = "random"
            if parents and index < settings.mutations:
                origin = "mutation"
            elif parents and index < settings.mutations + settings.crossovers:
                origin = "crossover"
            found = self._new(origin, parents, seen, rng)
            if found is None and origin != "random":
                origin, found = "random", self._new("random", parents, seen, rng)
            if found is None:
                break  # nothing new is left within the constraint
            seen.add(found)
            drawn.append((found, origin))
        return drawn

    def _new(
        self,
        origin: str,
        parents: Sequence[SubnetSpec],
        seen: set[SubnetSpec],
        rng: np.random.Generator,
    ) -> SubnetSpec | None:
        """A legal subnet not seen yet, or None after the allowed number of draws."""
        for _ in range(RANDOM_TRIES if origin == "random" else TRIES):
            if origin == "random":
                subnet = sample_uniform(self.spec, rng)
            elif origin == "mutation":
                parent = parents[int(rng.integers(len(parents)))]
                subnet = mutate(self.spec, parent, self.settings, rng)
            else:
                one, other = (parents[int(i)] for i in rng.integers(len(parents), size=2))
                if one.depth != other.depth:
                    continue
                subnet = crossover(one, other, rng)
            if subnet not in seen and self.legal(subnet):
                return subnet
        return None


def mutate(
    spec: SupernetSpec, parent: SubnetSpec, settings: EvolutionSettings, rng: np.random.Generator
) -> SubnetSpec:
    """The parent with some choices drawn anew; a new depth cuts layers off or adds random ones."""
    depth = parent.depth
    if rng.random() < settings.per_net:
        depth = int(rng.choice(spec.depth_choices))
    heads = _resized(parent.heads, spec.heads_choices, depth, rng)
    ratios = _resized(parent.mlp_ratios, spec.mlp_ratio_choices, depth, rng)
    ratios = _redrawn(ratios, spec.mlp_ratio_choices, settings.per_layer, rng)
    heads = _redrawn(heads, spec.heads_choices, settings.per_layer, rng)
    width = parent.embed_dim
    if rng.random() < settings.per_net:
        width = int(rng.choice(spec.embed_choices))
    return SubnetSpec(width, tuple(heads), tuple(ratios))


def crossover(one: SubnetSpec, other: SubnetSpec, rng: np.random.Generator) -> SubnetSpec:
    """Every gene from one of two parents of the same depth."""
    return SubnetSpec(
        embed_dim=(one, other)[int(rng.integers(2))].embed_dim,
        heads=tuple(p[int(rng.integers(2))] for p in zip(one.heads, other.heads, strict=True)),
        mlp_ratios=tuple(
            p[int(rng.integers(2))] for p in zip(one.mlp_ratios, other.mlp_ratios, strict=True)
        ),
    )


def _resized(
    genes: Sequence[Gene], choices: Sequence[Gene], depth: int, rng: np.random.Generator
) -> list[Gene]:
    added = [choices[int(rng.integers(len(choices)))] for _ in range(depth - len(genes))]
    return [*genes[:depth], *added]


def _redrawn(
    genes: Sequence[Gene], choices: Sequence[Gene], chance: float, rng: np.random.Generator
) -> list[Gene]:
    return [
        choices[int(rng.integers(len(choices)))] if rng.random() < chance else gene
        for gene in genes
    ]
