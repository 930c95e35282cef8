"""Energy of a run, where the machine counts it: NVML, RAPL, or a Jetson's own sensors.

What is read is the whole package's, GPU's or board's energy, idle power and neighbours included;
where a machine offers no counter, or keeps it from this user, there is no figure. The counters
themselves are those of `board.py`, which reads them on boards too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

from . import board
from .board import ENERGY_S, Meter

__all__ = ["energy_mj", "meter_of"]


def meter_of(device: torch.device, *, sysfs: Path | None = None) -> Meter | None:
    """The counter of what computes on `device`; None where there is none that may be read."""
    if device.type not in ("cpu", "cuda"):
        return None
    return board.find_meter(None if device.type == "cpu" else _uuid(device), sysfs)


def energy_mj(
    run: Callable[[], object], meter: Meter, *, seconds: float = ENERGY_S
) -> float | None:
    """Millijoules of one run, over as many as fill the time; None where the counter stood still."""
    run()
    count, end = 0, time.perf_counter() + seconds
    meter.start()
    while count < 3 or time.perf_counter() < end:
        run()
        count += 1
    joules = meter.stop()
    return 1e3 * joules / count if joules > 0.0 else None


def _uuid(device: torch.device) -> str:
    """Of a GPU; empty where torch does not tell."""
    try:
        return str(torch.cuda.get_device_properties(device).uuid)
    except (AssertionError, AttributeError, RuntimeError):
        return ""
