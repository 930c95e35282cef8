"""A device at hand that is no device, and searches that measure on it."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from problems import fake_problem, vit_facts

from autotok.config import CompressionConfig
from autotok.devices.measurement import Measurement
from autotok.errors import AutotokError, DeviceUnreachable
from autotok.searching.running.opening import run_search
from autotok.searching.running.search_result import SearchResult
from autotok.searching.space.problem import ExactCosts, Problem
from autotok.searching.space.settings import SearchSettings

FACTS = vit_facts()
COSTS = ExactCosts(FACTS)
SETTINGS = SearchSettings(n_trials=16, seed=2)


def predict(config: CompressionConfig) -> Mapping[str, float]:
    """10 ms a G, 20 MB a G."""
    macs_g = COSTS.cost(config).macs / 1e9
    return {"latency_ms": 10.0 * macs_g, "peak_memory_mb": 100.0 + 20.0 * macs_g}


class Bench:
    """A device whose times are a multiple of what is predicted for it."""

    def __init__(self, factor: float = 1.0, **of_method: float | AutotokError | MemoryError):
        self.factor, self.of_method = factor, of_method
        self.asked: list[CompressionConfig] = []
        self.breaks_after: int | None = None

    def __call__(self, config: CompressionConfig) -> Measurement:
        if self.breaks_after is not None and len(self.asked) >= self.breaks_after:
            raise DeviceUnreachable("device 'board' does not answer")
        self.asked.append(config)
        own = self.of_method.get(config.method, 1.0)
        if isinstance(own, Exception):
            raise own
        expected = predict(config)
        latency = self.factor * own * expected["latency_ms"]
        return Measurement(
            latency_ms=latency, p90_ms=latency, mad_ms=0.01 * latency, runs=15, verdict="steady",
            reference_latency_ms=None, speedup=None, memory_source="made up",
            peak_memory_mb=expected["peak_memory_mb"],
            device="board", runtime="none", dtype="float32", batch=1, image_shape=(3, 8, 8),
            threads=1, when="2026-01-01T00:00:00+00:00",
        )  # fmt: skip


def problem(bench: Bench | None, budgets: str = "25ms", *, stated: float | None = None) -> Problem:
    def predictor(config: CompressionConfig) -> Mapping[str, float]:
        more = {} if stated is None else {"latency_error_pct": stated, "memory_error_pct": stated}
        return {**predict(config), **more}

    found = fake_problem(budgets, facts=FACTS, predict=predictor)
    return dataclasses.replace(found, measure=bench)


def search(bench: Bench, folder: Path, budgets: str = "25ms") -> SearchResult:
    return run_search(SETTINGS, problem(bench, budgets), folder)


def ids(configs: list[CompressionConfig]) -> list[str]:
    return [config.config_id for config in configs]
