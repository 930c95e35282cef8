"""Seconds that predictions of 10,000 configurations take, the programs' making included.

    python benchmarks/predicting.py
    python benchmarks/predicting.py --methods tome kmedoids --backbone autoformer_demo

Configurations differ in method and in the tokens kept at layers 3, 6 and 9 (at layer 0 where a
method reduces once); at each of them more than one token goes, and not all that could: these edges
are programs of their own, or single traces, which take about 0.1 s each. A few are traced singly
as well, and the largest difference is printed.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

import autotok.methods  # noqa: F401
from autotok.backbones.loading import load_structure
from autotok.compression.schedule import realise
from autotok.config import CompressionConfig, Reduction
from autotok.methods.registry import get_method
from autotok.predicting.bulk import BulkPredictor, shape_of
from autotok.predicting.random_configs import draw_counts
from autotok.predicting.target import load_target

METHODS = ("topk", "evit", "random", "ltp", "tome", "tofu", "heatvit", "gtp")
LAYERS = (3, 6, 9)
CHECKED = 3


def drawn(backbone: str, methods: list[str], count: int) -> list[CompressionConfig]:
    """`count` different configurations, the methods in turn."""
    facts, rng = load_structure(backbone).facts, np.random.default_rng(0)
    configs: dict[CompressionConfig, None] = {CompressionConfig(): None}
    for number in range(20 * count):
        method = methods[number % len(methods)]
        layers = (0,) if get_method(method).single_layer else LAYERS
        shape = CompressionConfig(method, tuple(Reduction(x, num_keep=1) for x in layers))
        config = draw_counts(facts, shape, rng)
        schedule = realise(config, facts)
        gone = [site.num_entering - site.num_keep for site in schedule.sites]
        if min(gone) > 1 and set(shape_of(config, schedule).how) == {"some"}:
            configs[config] = None
        if len(configs) == count:
            break
    return list(configs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="vit_small_patch16_224")
    parser.add_argument("--target", default="rtx3090")
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--count", type=int, default=10_000)
    arguments = parser.parse_args()
    structure, target = load_structure(arguments.backbone), load_target(arguments.target)
    configs = drawn(arguments.backbone, arguments.methods, arguments.count)
    predictor = BulkPredictor(structure, target)
    start, busy = time.perf_counter(), time.process_time()
    found = predictor(configs)
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    print(
        f"{len(configs)} configurations of {len(arguments.methods)} methods on"
        f" {arguments.backbone}: {seconds:.1f} s ({busy:.1f} s of processor time),"
        f" {found.by_trace} of them traced singly"
    )
    worst = [0.0, 0.0]
    for index in [0, *np.random.default_rng(1).choice(len(configs), CHECKED, replace=False)]:
        one = predictor.single(configs[index])
        many = found.latency_ms[index], found.peak_memory_mb[index]
        worst = [max(w, abs(a / b - 1)) for w, a, b in zip(worst, many, one, strict=True)]
    print(f"largest difference from single traces: latency {worst[0]:.1e}, memory {worst[1]:.1e}")
    print(f"uncompressed: {found.latency_ms[0]:.2f} ms, {found.peak_memory_mb[0]:.0f} MB")


if __name__ == "__main__":
    main()
