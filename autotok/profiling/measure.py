"""Latency and peak memory measured on the machine at hand, beside a reference model.

Machines drift: clocks, heat and neighbours change by more than methods differ. So the model and
the reference take turns (R M R, R M R, ...), the speed-up is the median of each turn's own ratio,
and a run that stays noisy is first prolonged and then says so. A slot in a turn lasts 20 ms or
more, so a model of 1 ms runs many times in it and the slot's median is taken: a scheduler that
takes the processor away every few milliseconds otherwise beats with the turns (seen: a factor of 5
between two runs of one and the same model).
"""

from __future__ import annotations

import datetime
import math
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["Measurement", "measure"]

STEADY, NOISY = 0.03, 0.10
WARM_UP_RUNS = 12
SLOT_MS = 20.0
MOST_REPEATS = 50
MB = 1e6


@dataclass(frozen=True)
class Measurement:
    """A measured latency of one batch and peak memory, and the circumstances."""

    latency_ms: float
    """Median over runs."""
    p90_ms: float
    mad_ms: float
    """Median absolute deviation from the median."""
    runs: int
    verdict: str
    """'steady', 'noisy' (deviation above 3 %) or 'unreliable' (above 10 %)."""
    reference_latency_ms: float | None
    speedup: float | None
    """Reference over model, the median of ratios taken within one turn."""
    peak_memory_mb: float
    memory_source: str
    device: str
    runtime: str
    dtype: str
    batch: int
    image_shape: tuple[int, ...]
    threads: int
    when: str
    """UTC, ISO 8601."""

    @property
    def throughput_img_s(self) -> float:
        """Images a second."""
        return 1000.0 * self.batch / self.latency_ms

    @property
    def source(self) -> str:
        """Where the figure came from, in a line."""
        shape = "x".join(map(str, self.image_shape))
        return (
            f"measured ({self.device}, {self.runtime}, {self.dtype}, batch {self.batch}, {shape},"
            f" {self.threads} threads, median of {self.runs}, {self.verdict}, {self.when})"
        )


@torch.inference_mode()
def measure(
    model: nn.Module,
    images: Tensor,
    *,
    reference: nn.Module | None = None,
    rounds: int = 15,
    timeout_s: float = 30.0,
    threads: int | None = None,
) -> Measurement:
    """Measure `model(images)`; nothing but the forward is inside the timer.

    Args:
        model: In evaluation mode, on the device of `images`.
        images: One batch, normalised.
        reference: Usually the uncompressed model; gives `speedup`.
        rounds: Timed turns; up to three times as many while the run is noisy.
        timeout_s: No new turn begins after this long, three turns excepted.
        threads: CPU threads; torch's present number by default.
    """
    others = [] if reference is None else [reference]
    with _threads(threads):
        slots = [_Slot(module, images, timeout_s / 4) for module in (model, *others)]
        times, ratios, around = _turns(slots, rounds, timeout_s)
        peak, how = _peak_memory_mb(lambda: model(images), images.device)
        used = torch.get_num_threads()
    own = np.array(times)
    parameter = next(model.parameters(), images)
    return Measurement(
        latency_ms=float(np.median(own)),
        p90_ms=float(np.percentile(own, 90)),
        mad_ms=_mad(own),
        runs=len(own),
        verdict=_verdict(_mad(own) / float(np.median(own))),
        reference_latency_ms=float(np.median(around)) if around else None,
        speedup=float(np.median(ratios)) if ratios else None,
        peak_memory_mb=peak,
        memory_source=how,
        device=device_name(images.device),
        runtime=f"torch {torch.__version__} eager",
        dtype=str(parameter.dtype).removeprefix("torch."),
        batch=images.shape[0],
        image_shape=tuple(images.shape[1:]),
        threads=used,
        when=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )


class _Slot:
    """One module warmed up, and how often to run it in its slot of a turn."""

    def __init__(self, module: nn.Module, images: Tensor, patience_s: float) -> None:
        self.module, self.images = module, images
        warm = _warm_up(module, images, deadline=time.perf_counter() + patience_s)
        self.repeats = min(MOST_REPEATS, max(1, math.ceil(SLOT_MS / max(warm, 1e-3) - 1e-6)))

    def run(self) -> list[float]:
        """Milliseconds of each run in one slot."""
        return [_time_ms(self.module, self.images) for _ in range(self.repeats)]


def _turns(
    slots: list[_Slot], rounds: int, timeout_s: float
) -> tuple[list[float], list[float], list[float]]:
    """Milliseconds of every run of the model, each turn's ratio, and the reference's milliseconds.

    `slots` holds the model's, then the reference's if there is one.
    """
    times: list[float] = []
    ratios: list[float] = []
    around: list[float] = []
    start = time.perf_counter()
    for turn in range(3 * rounds):
        late = time.perf_counter() - start > timeout_s
        enough = turn >= rounds and _mad(np.array(times)) <= STEADY * np.median(times)
        if turn >= 3 and (late or enough):
            break
        before = [float(np.median(slot.run())) for slot in slots[1:]]
        own = slots[0].run()
        after = [float(np.median(slot.run())) for slot in slots[1:]]
        times += own
        if before:
            around += before + after
            ratios.append(float(np.mean(before + after) / np.median(own)))
    return times, ratios, around


def _warm_up(module: nn.Module, images: Tensor, *, deadline: float) -> float:
    """The median once those of two successive windows of three runs agree within 5 %."""
    times: list[float] = []
    while len(times) < WARM_UP_RUNS:
        times.append(_time_ms(module, images))
        old, new = np.median(times[-6:-3] or times), np.median(times[-3:])
        agree = len(times) >= 6 and abs(new - old) <= 0.05 * old
        if agree or (len(times) >= 2 and time.perf_counter() > deadline):
            break
    return float(np.median(times[-3:]))


def _time_ms(model: nn.Module, images: Tensor) -> float:
    _synchronise(images.device)
    start = time.perf_counter()
    model(images)
    _synchronise(images.device)
    return (time.perf_counter() - start) * 1e3


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _mad(times: np.ndarray) -> float:
    return float(np.median(np.abs(times - np.median(times))))


def _verdict(deviation: float) -> str:
    if deviation <= STEADY:
        return "steady"
    return "noisy" if deviation <= NOISY else "unreliable"


def _peak_memory_mb(run: Callable[[], object], device: torch.device) -> tuple[float, str]:
    """Peak during one run, and what was read: the allocator on CUDA, the whole process on a CPU."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) / MB, "CUDA allocator, peak of this model"
    was_reset = reset_high_water()
    run()
    peak = high_water_mb()
    if was_reset:
        return peak, "process high-water mark, reset before the run"
    return peak, "process high-water mark since its start: an upper bound"


def reset_high_water() -> bool:
    """Whether Linux let us reset VmHWM to the present resident size."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def high_water_mb() -> float:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1]) / MB
    except OSError:
        pass
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MB if sys.platform == "darwin" else 1024 * peak / MB


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
