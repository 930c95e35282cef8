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
from statistics import median

import torch
from torch import Tensor, nn

from .board import SLOT_MS, Slot, Timer, deviation, take_turns

Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {
    "processor": lambda: time.thread_time(),
    "wall": lambda: time.perf_counter(),
}
LEAST_TURNS = 4
ENOUGH_TURNS = 25


@dataclass(frozen=True)
class Relative:
    """A time as a multiple of the reference's."""

    ratio: float
    """Median over turns."""
    spread: float
    """Median absolute deviation from it, as a share of it."""
    reference_ms: float
    """Median of the reference's."""
    turns: int


def clock_for(device: torch.device, threads: int) -> str:
    """Which of `CLOCKS` suits: 'processor' for one CPU thread, else 'wall'."""
    return "processor" if device.type == "cpu" and threads == 1 else "wall"


def slot_of(
    model: nn.Module, images: Tensor, clock: Clock, *, patience_s: float, slot_ms: float = SLOT_MS
) -> Slot:
    """`model(images)`, warmed up and ready to take turns."""
    return Slot(Timer(lambda: model(images), images.device, clock), patience_s, slot_ms=slot_ms)


@torch.inference_mode()
def interleaved(
    model: nn.Module, images: Tensor, reference: nn.Module, *, clock: str, seconds: float
) -> Relative:
    """Time `model(images)` beside `reference`; ends after `seconds`, four turns at least.

    Args:
        model: In evaluation mode, on the device of `images`.
        images: One batch.
        reference: What it is compared with.
        clock: One of `CLOCKS`.
        seconds: Patience.
    """
    deadline = time.perf_counter() + seconds
    slots = [
        # half of what `measure` takes: a calibration has a few seconds for each of its models
        slot_of(module, images, CLOCKS[clock], patience_s=seconds / 8, slot_ms=SLOT_MS / 2)
        for module in (model, reference)
    ]
    left = deadline - time.perf_counter()
    found = take_turns(slots, ENOUGH_TURNS, left, least=LEAST_TURNS, most=ENOUGH_TURNS)
    ratios = [1 / ratio for ratio in found.ratios]
    return Relative(
        ratio=median(ratios),
        spread=deviation(ratios) / median(ratios),
        reference_ms=median([own for _, own in found.beside]),
        turns=len(ratios),
    )
