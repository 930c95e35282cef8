"""Peak memory as weights, a base and a share of live tensors, fitted to measured peaks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from autotok.backbones.loading import load_structure
from autotok.config import CompressionConfig
from autotok.devices.footprint import footprint

from .fitting import Array
from .trace import MB, Trace, trace

# two coefficients, and each point is judged by a fit to all others
LEAST_PEAKS = 3


@dataclass(frozen=True)
class MemoryFit:
    """Peak memory = weights + base + overhead * live bytes."""

    base_mb: float
    overhead: float
    points: int
    worst_pct: float
    """Largest error among the points, each predicted from the others."""


def fit_memory(backbones: Sequence[str], *, batch: int, seconds: float) -> MemoryFit:
    """Base and overhead of this machine, from a few models in processes of their own.

    Every backbone is run at `batch` and, as far as `seconds` reach, at eight times as many images.
    """
    deadline = time.perf_counter() + seconds
    rows: list[Array] = []
    peaks: list[float] = []
    jobs = [(name, images) for images in (batch, 8 * batch) for name in backbones]
    for name, images in [*jobs, (backbones[0], 4 * batch)]:
        if len(rows) >= LEAST_PEAKS and time.perf_counter() > deadline:
            break
        threads = torch.get_num_threads()
        peaks.append(footprint(name, CompressionConfig(), batch=images, threads=threads))
        rows.append(memory_row(trace(load_structure(name), batch=images)))
    return fit_peaks(np.stack(rows), np.array(peaks))


def fit_peaks(table: Array, peak: Array) -> MemoryFit:
    """The fit to peaks (M,) in MB of what `memory_row` says (M, 3); relative errors count."""
    from scipy.optimize import nnls

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
