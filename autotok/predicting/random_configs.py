"""Random configurations that a method can reach, for calibrating and for checking predictions."""

from __future__ import annotations

import numpy as np

from autotok.config import CompressionConfig, Reduction
from autotok.facts import BackboneFacts
from autotok.methods.base import Kind, Placement, TokenReducer
from autotok.methods.image_scoring import ImageScoring
from autotok.methods.registry import get_method, list_methods, unmet_need

LEAST_KEPT = 0.25
MOST_SITES = 4


def drawable_methods(facts: BackboneFacts) -> list[str]:
    """Names of the reducing methods that fit a backbone and whose cost a configuration settles.

    Left out are those that need a download (a network of their own), and those of which only the
    images decide how many tokens stay, as no threshold holds them to a number.
    """
    found = []
    for name in list_methods():
        method = get_method(name)
        plain = method.kind is not Kind.NONE and not issubclass(method, ImageScoring)
        if plain and not unmet_need(method, facts):
            found.append(name)
    return found


def draw(facts: BackboneFacts, name: str, rng: np.random.Generator) -> CompressionConfig:
    """A random schedule of one method: where, and how many patch tokens stay.

    Layers are up to four anywhere, or (one time in four) all of them with as many removed in each.
    """
    method = get_method(name)
    layers, options = _layers(facts, method, rng), method.resolve_options({})
    final, number = rng.uniform(LEAST_KEPT, 0.95), len(layers)
    shares = np.sort(rng.uniform(final, 1.0, number))[::-1]
    shares[-1] = final
    if number > MOST_SITES:
        shares = np.linspace(1.0, final, number + 1)[1:]
    reductions, entering = [], facts.num_patches
    for layer, share in zip(layers, shares, strict=True):
        low, high = method.feasible(entering, options)
        entering = int(min(max(round(share * facts.num_patches), low), high, entering))
        reductions.append(Reduction(layer, num_keep=entering))
    return CompressionConfig(name, tuple(reductions))


def _layers(
    facts: BackboneFacts, method: type[TokenReducer], rng: np.random.Generator
) -> list[int]:
    if method.placement is Placement.BEFORE_BLOCKS:
        return [0]
    possible = np.arange(method.first_layer, facts.num_blocks)
    if method.single_layer:
        return [int(rng.choice(possible))]
    if rng.random() < 0.25:
        return [int(layer) for layer in possible]
    count = min(int(rng.integers(1, MOST_SITES + 1)), len(possible))
    return sorted(int(layer) for layer in rng.choice(possible, count, replace=False))
