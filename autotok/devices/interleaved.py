"""A model's time relative to a reference that takes turns with it, on a machine that drifts.

The two alternate (R M R M R), each run of the model is divided by the mean of its neighbours, and
the median of those ratios is what a latency model is fitted to: heat, clocks and other programs
slow both. With one CPU thread the processor time of that thread is read instead of the wall clock,
which is the same on an idle machine and stays right when others take the processor away.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["CLOCKS", "Relative", "clock_for", "interleaved"]

Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"processor": time.thread_time, "wall": time.perf_counter}
LEAST_TURNS = 4
ENOUGH_TURNS = 25
SLOT_MS = 10.0


@dataclass(frozen=True)
class Relative:
    """A time as a multiple of the reference's."""

    ratio: float
    """Median over turns."""
    spread: float
    """Median absolute deviation from it, as a share of it."""
    latency_ms: float
    """Median of the model's own times, drift included."""
    reference_ms: float
    """Median of the reference's."""
    turns: int


def clock_for(device: torch.device, threads: int) -> str:
    """Which of `CLOCKS` suits: 'processor' for one CPU thread, else 'wall'."""
    return "processor" if device.type == "cpu" and threads == 1 else "wall"


@torch.inference_mode()
def interleaved(
    model: nn.Module,
    images: Tensor,
    reference: nn.Module,
    *,
    clock: str,
    seconds: float,
    reference_images: Tensor | None = None,
) -> Relative:
    """Time `model(images)` beside `reference`; ends after `seconds`, four turns at least.

    Args:
        model: In evaluation mode, on the device of `images`.
        images: One batch.
        reference: What it is compared with.
        clock: One of `CLOCKS`.
        seconds: Patience.
        reference_images: The reference's batch; `images` by default.
    """
    other = images if reference_images is None else reference_images
    deadline = time.perf_counter() + seconds
    jobs = [_Job(model, images, CLOCKS[clock]), _Job(reference, other, CLOCKS[clock])]
    own: list[float] = []
    around = [jobs[1].run()]
    while len(own) < LEAST_TURNS or time.perf_counter() < deadline:
        own.append(jobs[0].run())
        around.append(jobs[1].run())
        if len(own) == ENOUGH_TURNS:
            break
    mine, theirs = np.array(own), np.array(around)
    ratios = 2 * mine / (theirs[1:] + theirs[:-1])
    ratio = float(np.median(ratios))
    return Relative(
        ratio=ratio,
        spread=float(np.median(np.abs(ratios - ratio))) / ratio,
        latency_ms=1e3 * float(np.median(mine)),
        reference_ms=1e3 * float(np.median(theirs)),
        turns=len(own),
    )


class _Job:
    """A warmed-up model that runs often enough for the clock to see it."""

    def __init__(self, model: nn.Module, images: Tensor, clock: Clock) -> None:
        self.model, self.images, self.clock = model, images, clock
        self.repeats = 1
        self.run()
        self.repeats = max(1, round(SLOT_MS / max(1e3 * self.run(), 1e-3)))

    def run(self) -> float:
        """Seconds of the median run in one slot."""
        times = []
        for _ in range(self.repeats):
            _synchronise(self.images.device)
            start = self.clock()
            self.model(self.images)
            _synchronise(self.images.device)
            times.append(self.clock() - start)
        return float(np.median(times))


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
