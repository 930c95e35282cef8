"""Which subnets train next: uniform draws from a supernet's choices, mixtures, sandwiches."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from autotok.backbones.autoformer import SupernetSpec
from autotok.config import SubnetSpec
from autotok.errors import ConfigError, nearest

from .recipe import Stage

KINDS = ("default", "largest", "smallest", "random")
SAMPLINGS = ("mixture", "uniform", "sandwich")


def draw_subnets(
    spec: SupernetSpec, default: SubnetSpec, stage: Stage, rng: np.random.Generator
) -> tuple[SubnetSpec, ...]:
    """The subnets of one step, a stage's way; a sandwich starts with the largest."""
    if stage.sampling == "mixture":
        return (draw_subnet(spec, default, stage.subnets, rng),)
    if stage.sampling == "uniform":
        return (sample_uniform(spec, rng),)
    drawn = (sample_uniform(spec, rng) for _ in range(stage.random_subnets))
    return (spec.largest(), *drawn, spec.smallest())


def sample_uniform(spec: SupernetSpec, rng: np.random.Generator) -> SubnetSpec:
    """A subnet drawn as AutoFormer does: depth and width once, heads and MLP ratio per layer."""
    depth = int(rng.choice(spec.depth_choices))
    return SubnetSpec(
        embed_dim=int(rng.choice(spec.embed_choices)),
        heads=tuple(int(h) for h in rng.choice(spec.heads_choices, depth)),
        mlp_ratios=tuple(float(r) for r in rng.choice(spec.mlp_ratio_choices, depth)),
    )


def draw_subnet(
    spec: SupernetSpec, default: SubnetSpec, shares: Mapping[str, float], rng: np.random.Generator
) -> SubnetSpec:
    """One of 'default', 'largest', 'smallest' or 'random', drawn by `shares` (they add up to 1)."""
    for kind in shares:
        if kind not in KINDS:
            hint = nearest(kind, KINDS)
            raise ConfigError(f"subnet kind '{kind}' is unknown;{hint} known: {', '.join(KINDS)}")
    names = list(shares)
    kind = names[int(rng.choice(len(names), p=np.array([shares[name] for name in names])))]
    if kind == "default":
        return default
    if kind == "largest":
        return spec.largest()
    if kind == "smallest":
        return spec.smallest()
    return sample_uniform(spec, rng)
