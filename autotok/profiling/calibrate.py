"""Calibration: a latency and memory model of the machine at hand, from a few dozen measurements.

Candidates are drawn at random over backbones, methods and schedules; those that settle the model's
terms best are measured, each in turns with its uncompressed backbone, and some drawn by lot are
kept aside. The model is fitted without these and judged on them; the terms in the target are then
fitted to all.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from autotok.backbones.base import Backbone
from autotok.backbones.loading import load_structure
from autotok.compression.calibrate import calibrated, needs_calibration
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig
from autotok.errors import ConfigError

from .drawing import draw, drawable_methods
from .fitting import Check, check, fit_terms, informative, row_of
from .footprint import footprint
from .latency_model import trace_features
from .trace import Trace, trace
from .turns import Relative, clock_for, in_turns

__all__ = [
    "BACKBONES",
    "Calibrated",
    "Measured",
    "MemoryFit",
    "OnStep",
    "Plan",
    "calibrate",
    "fit_memory",
    "measure_all",
    "table_of",
]

BACKBONES = ("vit_small_patch16_224", "deit_tiny_patch16_224", "autoformer_demo")
CANDIDATES, FEWER_CANDIDATES = 4, 1.5
"""For each one measured, and where time is short."""
HELD_OUT_SHARE = 0.2
LEAST = 10
DRAWING_SHARE, MEMORY_SHARE = 0.2, 0.2
MOST_S = 4.0
MB = 1e6
OnStep = Callable[[float, str], None]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Plan:
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
    """Whether to measure peak memory, in processes of their own."""

    def __post_init__(self) -> None:
        if self.measurements < LEAST:
            raise ConfigError(f"measurements is {self.measurements}; give at least {LEAST}")
        if not self.backbones:
            raise ConfigError("backbones is empty; name at least one to calibrate on")


@dataclass(frozen=True)
class Candidate:
    """A configuration of one backbone, and what its trace says."""

    backbone: str
    config: CompressionConfig
    amounts: Array
    """(T,) of the terms."""


@dataclass(frozen=True)
class Measured:
    """A candidate and its latency."""

    candidate: Candidate
    latency_ms: float
    """Ratio to the uncompressed backbone, times the latter's median over the whole session."""
    spread: float
    """Median absolute deviation of the ratio over turns."""
    reference_ms: float = float("nan")
    """The backbone's median over the whole session."""


@dataclass(frozen=True)
class MemoryFit:
    """Peak memory = weights + base + overhead * live bytes."""

    base_mb: float
    overhead: float
    points: int
    worst_pct: float
    """Largest error among the points, each predicted from the others."""


@dataclass(frozen=True)
class Calibrated:
    """Everything a target file is written from."""

    terms_us: Array
    check: Check
    """Of the fit that had not seen the held-out configurations."""
    fitted: tuple[Measured, ...]
    held_out: tuple[Measured, ...]
    memory: MemoryFit | None
    plan: Plan
    threads: int
    clock: str
    seconds: float


def calibrate(plan: Plan, *, on_step: OnStep = lambda share, text: None) -> Calibrated:
    """Measure, fit and judge, with torch's present number of threads.

    `on_step` is told the share done and what comes.
    """
    start = time.perf_counter()
    peak = None
    if plan.memory:
        on_step(0.0, "peak memory of a few models, each in its own process")
        patience = MEMORY_SHARE * plan.seconds
        peak = fit_memory(plan.backbones, batch=plan.batch, seconds=patience)
    on_step(0.1, "drawing and tracing candidates")
    patience = time.perf_counter() + DRAWING_SHARE * plan.seconds
    least, most = (round(share * plan.measurements) for share in (FEWER_CANDIDATES, CANDIDATES))
    pool = draw_candidates(plan, most, least=least, until=patience)
    aside, chosen = _split(pool, len(plan.backbones), plan.measurements)
    left = plan.seconds - (time.perf_counter() - start)
    wanted = _mixed(chosen, aside)
    found = measure_all(wanted, batch=plan.batch, seconds=left, on_step=on_step)
    kept_aside = set(map(id, aside))
    held_out = [row for row in found if id(row.candidate) in kept_aside]
    fitted = [row for row in found if id(row.candidate) not in kept_aside]
    amounts, latencies = table_of(held_out)
    return Calibrated(
        terms_us=fit_terms(*table_of(found)),
        check=check(amounts @ fit_terms(*table_of(fitted)), latencies),
        fitted=tuple(fitted),
        held_out=tuple(held_out),
        memory=peak,
        plan=plan,
        threads=torch.get_num_threads(),
        clock=clock_for(torch.device("cpu"), torch.get_num_threads()),
        seconds=time.perf_counter() - start,
    )


def draw_candidates(
    plan: Plan, count: int, *, least: int = 0, until: float = float("inf")
) -> list[Candidate]:
    """The uncompressed backbones, then random configurations of each in turn, `count` in all.

    Methods come in shuffled rounds, so that a hundred draws hold each one. From the time `until` on
    `least` are enough.
    """
    backbones, batch = plan.backbones, plan.batch
    rng = np.random.default_rng(plan.seed)
    structures = {name: load_structure(name) for name in backbones}
    rounds = {
        name: _shuffled(drawable_methods(backbone.facts), rng)
        for name, backbone in structures.items()
    }
    found = [candidate(structures[name], CompressionConfig(), batch) for name in backbones]
    for name in itertools.cycle(backbones):
        late = time.perf_counter() > until
        if len(found) >= (least if late else count):
            return found
        config = draw(structures[name].facts, next(rounds[name]), rng)
        found.append(candidate(structures[name], config, batch))
    return found


def candidate(structure: Backbone, config: CompressionConfig, batch: int) -> Candidate:
    """A configuration with what its trace says."""
    traced = trace(compress_backbone(structure, config), batch=batch)
    return Candidate(structure.facts.name, config, row_of(trace_features(traced)))


def _shuffled(names: Sequence[str], rng: np.random.Generator) -> itertools.chain[str]:
    rounds = (list(rng.permutation(names)) for _ in itertools.count())
    return itertools.chain.from_iterable(map(str, names) for names in rounds)


def _split(
    pool: list[Candidate], num_backbones: int, measurements: int
) -> tuple[list[Candidate], list[Candidate]]:
    """(kept aside, fitted): the former the last drawn, the latter the most informative others."""
    aside = max(3, round(HELD_OUT_SHARE * measurements))
    rest = pool[:-aside]
    plain = list(range(num_backbones))
    amounts = np.stack([c.amounts for c in rest])
    chosen = informative(amounts, measurements - aside - num_backbones, start=plain)
    return pool[-aside:], [rest[i] for i in [*plain, *chosen]]


def _mixed(chosen: list[Candidate], aside: list[Candidate]) -> list[Candidate]:
    """Those kept aside spread among the others, so that time running short takes of both."""
    step = max(len(chosen) // len(aside), 1)
    found: list[Candidate] = []
    for index, item in enumerate(aside):
        found += [*chosen[index * step : (index + 1) * step], item]
    return found + chosen[len(aside) * step :]


def measure_all(
    wanted: Sequence[Candidate],
    *,
    batch: int,
    seconds: float,
    seed: int = 0,
    on_step: OnStep = lambda share, text: None,
) -> list[Measured]:
    """Latency of each, in turns with its uncompressed backbone.

    Ends after `seconds`, then without the last of them, but not before ten were measured.
    """
    deadline = time.perf_counter() + seconds
    clock = clock_for(torch.device("cpu"), torch.get_num_threads())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        runnable = {c.backbone: load_structure(c.backbone, device="cpu") for c in wanted}
    generator = torch.Generator().manual_seed(seed)
    images = {
        name: torch.randn(batch, *b.facts.image_shape, generator=generator)
        for name, b in runnable.items()
    }
    ratios: list[Relative] = []
    references: dict[str, list[float]] = {name: [] for name in runnable}
    for number, item in enumerate(wanted):
        on_step(
            0.3 + 0.7 * number / len(wanted),
            f"measuring {item.backbone} {item.config.method} ({number + 1} of {len(wanted)})",
        )
        share = (deadline - time.perf_counter()) / (len(wanted) - number)
        if share <= 0 and number >= LEAST:
            break
        backbone = runnable[item.backbone]
        model = compress_backbone(backbone, item.config).eval()
        if needs_calibration(item.config):
            model = calibrated(model, images[item.backbone])
        found = in_turns(
            model, images[item.backbone], backbone, clock=clock, seconds=min(share, MOST_S) * 0.9
        )
        ratios.append(found)
        references[item.backbone].append(found.reference_ms)
    usual = {name: float(np.median(times)) for name, times in references.items()}
    return [
        Measured(item, found.ratio * usual[item.backbone], found.spread, usual[item.backbone])
        for item, found in zip(wanted, ratios, strict=False)
    ]


def table_of(rows: Sequence[Measured]) -> tuple[Array, Array]:
    """((M, T) amounts, (M,) microseconds)."""
    latencies = np.array([1e3 * row.latency_ms for row in rows])
    return np.stack([row.candidate.amounts for row in rows]), latencies


def fit_memory(backbones: Sequence[str], *, batch: int, seconds: float) -> MemoryFit | None:
    """Base and overhead from a few processes; None where fewer than three could be run in time.

    Every backbone is run at `batch` and at eight times as many images.
    """
    from scipy.optimize import nnls

    deadline = time.perf_counter() + seconds
    rows: list[Array] = []
    peaks: list[float] = []
    jobs = [(name, images) for images in (batch, 8 * batch) for name in backbones]
    for name, images in [*jobs, (backbones[0], 4 * batch)]:
        if len(rows) >= 3 and time.perf_counter() > deadline:
            break
        threads = torch.get_num_threads()
        seen = footprint(name, CompressionConfig(), batch=images, threads=threads)
        traced = trace(load_structure(name), batch=images)
        rows.append(memory_row(traced))
        peaks.append(seen.peak_mb)
    table, peak = np.stack(rows), np.array(peaks)
    own = peak - table[:, 0]  # without the weights

    def fit(used: NDArray[np.bool_]) -> Array:
        found: Array = nnls(table[used, 1:] / peak[used, None], own[used] / peak[used])[0]
        return found

    errors = []
    for index in range(len(peak)):
        others = np.arange(len(peak)) != index
        guess = table[index, 0] + table[index, 1:] @ fit(others)
        errors.append(100 * abs(guess / peak[index] - 1))
    base, overhead = fit(np.ones(len(peak), dtype=bool))
    return MemoryFit(float(base), float(overhead), len(peak), float(max(errors)))


def memory_row(traced: Trace) -> Array:
    """(3,): weights in MB, 1, live tensors in MB."""
    return np.array([traced.weight_bytes / MB, 1.0, traced.peak_live_bytes / MB])
