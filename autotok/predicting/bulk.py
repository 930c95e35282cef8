"""`BulkPredictor`: many configurations of a backbone on a target, by programs where there are any.

Where sizes are no functions of the counts (or the operators themselves depend on them, as in
methods that loop over tokens), and where a size falls to one or none, configurations are traced one
by one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from autotok.backbones.base import Backbone
from autotok.compression.compress import compress_backbone
from autotok.compression.schedule import Schedule, realise
from autotok.config import CompressionConfig, Primitive, SubnetSpec
from autotok.counting.meta_model import meta_copy
from autotok.errors import ConfigError
from autotok.methods.registry import get_method

from .predict import bare_prediction
from .random_configs import draw_counts
from .symbolic_sizes import Columns, Inexpressible
from .symbolic_trace import Array, SymbolicTrace
from .target import Target
from .trace import Trace, trace

__all__ = ["Predicted", "BulkPredictor", "ScheduleShape", "shape_of"]

_LOG = logging.getLogger(__name__)
FEW, MORE = 4, 8
"""Traces that settle whole counts, and halves too."""
WORTHWHILE = 6
"""Configurations of one shape from which on a program is made."""
CHUNK = 1024
TRIES = 12


@dataclass(frozen=True)
class Predicted:
    """Figures of many configurations, in their order."""

    latency_ms: Array
    peak_memory_mb: Array
    by_trace: int
    """How many were traced one by one."""


class ScheduleShape(NamedTuple):
    """What configurations of one program share."""

    method: str
    layers: tuple[tuple[int, tuple[tuple[str, Primitive], ...]], ...]
    """With their own options."""
    options: tuple[tuple[str, Primitive], ...]
    positions: str
    subnet: SubnetSpec | None
    how: tuple[str, ...]
    """Of each layer: 'all' stay (it is skipped), 'fewest' that can, or 'some'."""


class BulkPredictor:
    """Predicts configurations of one backbone on one target; programs are kept between calls."""

    def __init__(
        self,
        backbone: Backbone,
        target: Target,
        *,
        setting: str = "eager",
        batch: int = 1,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.backbone = meta_copy(backbone, dtype=dtype)  # which traces then need not copy again
        self.target, self.setting = target, setting
        self.how = target.setting(setting)
        self._batch, self._dtype = batch, dtype
        self._programs: dict[ScheduleShape, SymbolicTrace | None] = {}
        self._known: dict[CompressionConfig, tuple[float, float]] = {}

    def __call__(self, configs: Sequence[CompressionConfig]) -> Predicted:
        """Latency and peak memory of each.

        Raises:
            ConfigError, IncompatibleMethod: as in `realise`.
        """
        latency = np.full(len(configs), np.nan)
        memory = latency.copy()
        schedules = [realise(config, self.backbone.facts) for config in configs]
        shapes: dict[ScheduleShape, list[int]] = {}
        for index, (config, schedule) in enumerate(zip(configs, schedules, strict=True)):
            shapes.setdefault(shape_of(config, schedule), []).append(index)
        for shape, indices in shapes.items():
            program = self._program(shape, configs[indices[0]], len(indices))
            for start in range(0, len(indices) if program else 0, CHUNK):
                assert program is not None
                some = indices[start : start + CHUNK]
                table = program.columns.table([schedules[i] for i in some])
                latency[some], memory[some] = program.predict(table, self.target, self.how)
        left = np.flatnonzero(np.isnan(latency))
        for index in map(int, left):
            latency[index], memory[index] = self.single(configs[index])
        return Predicted(latency, memory, len(left))

    def _trace(self, config: CompressionConfig) -> Trace:
        return trace(
            compress_backbone(self.backbone, config),
            batch=self._batch,
            dtype=self._dtype,
            fused_attention=self.how.fused_attention,
        )

    def single(self, config: CompressionConfig) -> tuple[float, float]:
        """(ms, MB) of one configuration, from a trace of its own."""
        if config not in self._known:
            found = bare_prediction(self._trace(config), self.target, self.setting)
            self._known[config] = found.latency_ms, found.peak_memory_mb
        return self._known[config]

    def _program(
        self, shape: ScheduleShape, example: CompressionConfig, count: int
    ) -> SymbolicTrace | None:
        """The program of a shape; None where there is none, or too few are asked for."""
        if shape not in self._programs:
            if count < WORTHWHILE:
                return None
            self._programs[shape] = self._made(shape, example)
        return self._programs[shape]

    def _made(self, shape: ScheduleShape, example: CompressionConfig) -> SymbolicTrace | None:
        facts = self.backbone.facts
        layers = tuple(r.layer for r in example.reductions)
        columns = Columns(facts.num_patches, facts.num_blocks, layers)
        traces: list[Trace] = []
        samples = self._samples(shape, example)
        for number, (config, _) in enumerate(samples, start=1):
            traces.append(self._trace(config))
            if number in (FEW, MORE):
                try:
                    return SymbolicTrace.of(traces, [s for _, s in samples[:number]], columns)
                except Inexpressible as error:
                    _LOG.debug("%s at layers %s: %s", example.method, layers, error)
        return None

    def _samples(
        self, shape: ScheduleShape, example: CompressionConfig
    ) -> list[tuple[CompressionConfig, Schedule]]:
        """Different configurations of a shape, at most `MORE`."""
        facts, rng = self.backbone.facts, np.random.default_rng(0)
        found: dict[tuple[int, ...], tuple[CompressionConfig, Schedule]] = {}
        for _ in range(TRIES * MORE):
            config = draw_counts(facts, example, rng, how=shape.how)
            try:
                schedule = realise(config, facts)
            except ConfigError:
                continue
            if shape_of(config, schedule) == shape:
                found[schedule.kept] = config, schedule
            if len(found) == MORE:
                break
        return list(found.values())


def shape_of(config: CompressionConfig, schedule: Schedule) -> ScheduleShape:
    """What a configuration shares with all others of its program."""
    method = get_method(config.method)
    how = []
    for reduction, site in zip(config.reductions, schedule.sites, strict=True):
        options = method.resolve_options({**config.options, **reduction.options})
        low, _ = method.feasible(site.num_entering, options)
        least = "fewest" if site.num_keep <= low else "some"
        how.append("all" if site.num_keep == site.num_entering else least)
    return ScheduleShape(
        config.method,
        tuple((r.layer, tuple(sorted(r.options.items()))) for r in config.reductions),
        tuple(sorted(config.options.items())),
        config.positions,
        config.subnet,
        tuple(how),
    )
