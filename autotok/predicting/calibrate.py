"""Calibration: a latency and memory model of a machine, from a few dozen measurements.

Candidates are drawn at random over backbones, methods and schedules; those that settle the model's
terms best are measured, each in turns with its uncompressed backbone, and some drawn by lot are
kept aside. The model is fitted without these and judged on them; the terms in the target are then
fitted to all. A `Measurer` does the measuring: this machine, or a device.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from autotok.backbones.base import Backbone
from autotok.backbones.loading import load_structure
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig
from autotok.errors import AutotokError, ConfigError
from autotok.names import check_number

from .calibration_run import LEAST, CalibrationCandidate, CalibrationRun, Measured, OnStep
from .fitting import Array, FitCheck, check, fit_terms, informative, row_of
from .latency_model import features_of
from .measurers import InterleavedMeasurer, Machine, Measurer
from .memory_fit import LEAST_PEAKS, MemoryFit, fit_memory, fit_peaks, memory_row
from .random_configs import draw, drawable_methods
from .trace import trace

BACKBONES = ("vit_small_patch16_224", "deit_tiny_patch16_224", "autoformer_demo")
CANDIDATES, FEWER_CANDIDATES = 4, 1.5
"""For each one measured, and where time is short."""
# never fitted: the error that the file states is measured on these alone
HELD_OUT_SHARE = 0.2
# of the time, at most: measuring is what the rest is for
DRAWING_SHARE, MEMORY_SHARE = 0.2, 0.2


@dataclass(frozen=True)
class CalibrationPlan:
    """What to calibrate on.

    Raises:
        ConfigError: too few measurements.
    """

    backbones: tuple[str, ...] = BACKBONES
    """Names; their weights are random."""
    measurements: int = 60
    """Configurations to measure, at least 10."""
    seconds: float = 285.0
    """To be done by then; each measurement becomes shorter if need be."""
    batch: int = 1
    """Images at once."""
    seed: int = 0
    """Of the draw."""
    memory: bool = True
    """Whether to fit peak memory."""
    without: tuple[str, ...] = ()
    """Methods that the device cannot run."""
    dtype: str = "float32"
    """Of weights and images where they are measured."""
    fused_attention: bool = True
    """The runtime computes plain attention in one kernel, without its map in memory."""
    most_added: int | None = None
    """Kernels that a configuration may add to its backbone's; where each is exported, time matters
    (graphs of thousands of operators take many minutes)."""

    def __post_init__(self) -> None:
        if self.measurements < LEAST:
            raise ConfigError(f"measurements is {self.measurements}; give at least {LEAST}")
        if not self.backbones:
            raise ConfigError("backbones is empty; name at least one to calibrate on")
        check_number("batch", self.batch)


@dataclass(frozen=True)
class CalibrationFound:
    """Everything a target file is written from."""

    terms_us: Array
    check: FitCheck
    """Of the fit that had not seen the held-out configurations."""
    fitted: tuple[Measured, ...]
    held_out: tuple[Measured, ...]
    memory: MemoryFit | None
    plan: CalibrationPlan
    machine: Machine
    seconds: float

    def figures(self) -> dict[str, Any]:
        """What a target file records of it, rounded as people read it."""
        checked, memory, machine = self.check, self.memory, self.machine
        rank = checked.rank_correlation
        return {
            "measurements": len(self.fitted) + len(self.held_out),
            "held_out": checked.count,
            "within_5_pct": round(checked.within_5_pct, 1),
            "within_10_pct": round(checked.within_10_pct, 1),
            "rank_correlation": None if rank is None else round(rank, 4),
            "worst_pct": round(checked.worst_pct, 1),
            "memory_points": 0 if memory is None else memory.points,
            "memory_worst_pct": None if memory is None else round(memory.worst_pct, 1),
            "backbones": list(self.plan.backbones),
            "batch": self.plan.batch,
            "runtime": machine.runtime,
            "threads": machine.threads,
            "clock": machine.clock,
        }


def calibrate_target(
    plan: CalibrationPlan,
    *,
    measurer: Measurer | None = None,
    on_step: OnStep = lambda share, text: None,
) -> CalibrationFound:
    """What was measured, the terms fitted to it, and how well they do on what they had not seen.

    Args:
        plan: What to measure.
        measurer: Who measures; this machine by default, with torch's present number of threads.
        on_step: Told the share done and what comes.

    Raises:
        DeviceUnreachable: the device does not answer.
        AutotokError: too few configurations could be measured on it.
    """
    start = time.perf_counter()
    measurer = measurer or InterleavedMeasurer()
    memory = None
    if plan.memory and not measurer.tells_memory:
        on_step(0.0, "peak memory of a few models, each in its own process")
        patience = MEMORY_SHARE * plan.seconds
        memory = fit_memory(plan.backbones, batch=plan.batch, seconds=patience)
    on_step(0.1, "drawing and tracing candidates")
    patience = time.perf_counter() + DRAWING_SHARE * plan.seconds
    least, most = (round(share * plan.measurements) for share in (FEWER_CANDIDATES, CANDIDATES))
    pool = draw_candidates(plan, most, least=least, until=patience)
    picks = _Picks(pool, plan, may_be_refused=measurer.tells_memory)
    calibration_run = CalibrationRun(measurer, plan.backbones, batch=plan.batch)
    left = plan.seconds - (time.perf_counter() - start)
    calibration_run.run(picks.wanted, seconds=left, instead=picks.instead, on_step=on_step)
    found = calibration_run.rows()
    fitted, held_out = picks.divided(found)
    if len(found) < LEAST or not held_out:
        raise _too_few(len(found), calibration_run.last_refusal)
    amounts, latencies = table_of(held_out)
    return CalibrationFound(
        terms_us=fit_terms(*table_of(found)),
        check=check(amounts @ fit_terms(*table_of(fitted)), latencies),
        fitted=fitted,
        held_out=held_out,
        memory=_memory_of(found) if plan.memory and measurer.tells_memory else memory,
        plan=plan,
        machine=measurer.machine(),
        seconds=time.perf_counter() - start,
    )


def draw_candidates(
    plan: CalibrationPlan, count: int, *, least: int = 0, until: float = float("inf")
) -> list[CalibrationCandidate]:
    """The uncompressed backbones, then random configurations of each in turn, `count` in all.

    Methods come in shuffled rounds, so that a hundred draws hold each one. From the time `until` on
    `least` are enough.
    """
    backbones = plan.backbones
    rng = np.random.default_rng(plan.seed)
    structures = {name: load_structure(name) for name in backbones}
    rounds = {
        name: _shuffled([m for m in drawable_methods(b.facts) if m not in plan.without], rng)
        for name, b in structures.items()
    }
    found = [candidate(structures[name], CompressionConfig(), plan) for name in backbones]
    for name in itertools.cycle(backbones):
        late = time.perf_counter() > until
        if len(found) >= (least if late else count):
            return found
        config = draw(structures[name].facts, next(rounds[name]), rng)
        drawn, plain = candidate(structures[name], config, plan), found[backbones.index(name)]
        if plan.most_added is None or drawn.launches <= plain.launches + plan.most_added:
            found.append(drawn)
    return found


def candidate(
    structure: Backbone, config: CompressionConfig, plan: CalibrationPlan
) -> CalibrationCandidate:
    """A configuration with what its trace says."""
    traced = trace(
        compress_backbone(structure, config),
        batch=plan.batch,
        dtype=getattr(torch, plan.dtype),
        fused_attention=plan.fused_attention,
    )
    amounts = row_of(features_of(traced.operators, pooled=traced.pooled))
    return CalibrationCandidate(
        structure.facts.name, config, amounts, memory_row(traced), launches=traced.launches
    )


def _shuffled(names: Sequence[str], rng: np.random.Generator) -> itertools.chain[str]:
    rounds = (list(rng.permutation(names)) for _ in itertools.count())
    return itertools.chain.from_iterable(map(str, names) for names in rounds)


class _Picks:
    """What is measured of a pool: the last drawn, kept aside, and the most informative others.

    Where some may be refused, as many again of the last drawn wait to be kept aside in their place.
    """

    def __init__(
        self, pool: list[CalibrationCandidate], plan: CalibrationPlan, *, may_be_refused: bool
    ) -> None:
        count, plain = max(3, round(HELD_OUT_SHARE * plan.measurements)), len(plan.backbones)
        spare = min(count, max(0, len(pool) - plan.measurements)) if may_be_refused else 0
        rest = pool[: len(pool) - count - spare]
        aside = pool[len(rest) :]
        start = list(range(plain))
        fitted = plan.measurements - count - plain
        wanted = len(rest) if may_be_refused else fitted
        order = informative(np.stack([c.amounts for c in rest]), wanted, start=start)
        self._aside = set(map(id, aside))
        self._further = {
            True: iter(aside[count:]),
            False: iter([rest[index] for index in order[fitted:]]),
        }
        self.wanted = _mixed([rest[index] for index in [*start, *order[:fitted]]], aside[:count])

    def divided(self, rows: Sequence[Measured]) -> tuple[tuple[Measured, ...], ...]:
        """(fitted, kept aside)."""
        aside = [id(row.candidate) in self._aside for row in rows]
        return tuple(
            tuple(row for row, kept in zip(rows, aside, strict=True) if kept == which)
            for which in (False, True)
        )

    def instead(self, refused: CalibrationCandidate) -> CalibrationCandidate | None:
        """Another of the same use; None where none is left."""
        return next(self._further[id(refused) in self._aside], None)


def _mixed(
    chosen: list[CalibrationCandidate], aside: list[CalibrationCandidate]
) -> list[CalibrationCandidate]:
    """Those kept aside spread among the others, so that time running short takes of both."""
    step = max(len(chosen) // len(aside), 1)
    found: list[CalibrationCandidate] = []
    for index, item in enumerate(aside):
        found += [*chosen[index * step : (index + 1) * step], item]
    return found + chosen[len(aside) * step :]


def table_of(rows: Sequence[Measured]) -> tuple[Array, Array]:
    """((M, T) amounts, (M,) microseconds)."""
    latencies = np.array([1e3 * row.latency_ms for row in rows])
    return np.stack([row.candidate.amounts for row in rows]), latencies


def _memory_of(rows: Sequence[Measured]) -> MemoryFit | None:
    """The fit to the peaks that came with the latencies; None where there are too few."""
    known = [(row.candidate.memory, row.peak_mb) for row in rows if row.peak_mb is not None]
    if len(known) < LEAST_PEAKS:
        return None
    return fit_peaks(np.stack([sizes for sizes, _ in known]), np.array([mb for _, mb in known]))


def _too_few(count: int, refusal: str) -> AutotokError:
    because = f"; the last one failed: {refusal}" if refusal else "; give it more minutes"
    return AutotokError(
        f"only {count} configurations could be measured, and a calibration needs {LEAST} and some"
        f" to judge it by{because}"
    )
