"""Microseconds per candidate of the exact cost formula, vectorised and one by one.

python benchmarks/counting.py
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

import autotok.methods  # noqa: F401
from autotok.backbones.loading import load_structure
from autotok.config import CompressionConfig, Reduction
from autotok.counting.macs import cost, schedule_macs
from autotok.facts import BackboneFacts
from autotok.methods.registry import get_method, list_methods, unmet_need

BACKBONES = ("deit_small_patch16_224", "autoformer_small")
LAYERS = (1, 3, 6, 9)
"""Of the second block on: some methods judge by an earlier block's attention."""


def best_us(run: Callable[[], object], times: int = 20) -> float:
    """Microseconds of the fastest of several runs."""
    found = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return min(found) * 1e6


def candidates(facts: BackboneFacts, sites: int, count: int) -> np.ndarray:
    """Falling token counts, (count, sites)."""
    rng = np.random.default_rng(0)
    return -np.sort(
        -rng.integers(facts.num_patches // 2, facts.num_patches, (count, sites)), axis=1
    )


def main() -> None:
    """Print the table."""
    print(f"{'backbone':24s} {'method':8s} {'M=1000':>8s} {'M=1':>8s} {'cost()':>8s}  us each")
    for name in BACKBONES:
        facts = load_structure(name).facts
        for method in list_methods():
            if method == "none" or unmet_need(get_method(method), facts):
                continue
            cls = get_method(method)
            layers = (cls.first_layer,) if cls.single_layer else LAYERS
            many = candidates(facts, len(layers), 1000)
            fast = best_us(lambda: schedule_macs(facts, method, {}, layers=layers, counts=many))  # noqa: B023
            one = best_us(lambda: schedule_macs(facts, method, {}, layers=layers, counts=many[:1]))  # noqa: B023
            keep = zip(layers, many[-1], strict=True)
            reductions = tuple(Reduction(layer, num_keep=int(k)) for layer, k in keep)
            config = CompressionConfig(method=method, reductions=reductions)
            single = best_us(lambda: cost(facts, config))  # noqa: B023
            print(f"{name:24s} {method:8s} {fast / 1000:8.2f} {one:8.1f} {single:8.1f}")


if __name__ == "__main__":
    main()
