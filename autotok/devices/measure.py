"""Latency, peak memory and energy measured on the machine at hand, beside a reference model.

Machines drift: clocks, heat and neighbours change by more than methods differ. So the model and
the reference take turns (R M R, R M R, ...), the speed-up is the median of each turn's own ratio,
and a run that stays noisy is first prolonged and then says so. A slot in a turn lasts 20 ms or
more, so a model of 1 ms runs many times in it and the slot's median is taken: a scheduler that
takes the processor away every few milliseconds otherwise beats with the turns (seen: a factor of 5
between two runs of one and the same model). With one CPU thread, ratios are of the time that thread
had the processor: the same on an idle machine, and right on a busy one. A latency lasts until the
answer is there; on CUDA the host's and the device's parts in it are told apart.
"""

from __future__ import annotations

import datetime
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .board import installed_mb, machine_name
from .energy import energy_mj, meter_of
from .measurement import Measurement
from .timer import Timer, synchronise

__all__ = ["installed_mb", "measure"]

STEADY, NOISY = 0.03, 0.10
SURE_PCT = 0.5
"""Standard error of the speed-up at which a run is long enough."""
WARM_UP_RUNS = 12
SLOT_MS = 20.0
MOST_REPEATS = 50
MB = 1e6


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
        rounds: Timed turns; up to three times as many while the run, or the speed-up, is noisy.
        timeout_s: No new turn begins after this long, three turns excepted.
        threads: CPU threads; torch's present number by default.
    """
    others = [] if reference is None else [reference]
    with _threads(threads):
        slots = [_Slot(module, images, timeout_s / 4) for module in (model, *others)]
        turns = _turns(slots, rounds, timeout_s)
        peak, how = _peak_memory_mb(lambda: model(images), images.device)
        energy, counter = _energy(slots[0])
        used = torch.get_num_threads()
    parameter = next(model.parameters(), images)
    return Measurement(
        **_statistics(turns, rounds, slots[0].watch),
        peak_memory_mb=peak,
        memory_source=how,
        device=device_name(images.device),
        runtime=f"torch {torch.__version__} eager",
        dtype=str(parameter.dtype).removeprefix("torch."),
        batch=images.shape[0],
        image_shape=tuple(images.shape[1:]),
        threads=used,
        when=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        energy_mj=energy,
        energy_source=counter,
    )


def _statistics(turns: _Turns, rounds: int, watch: Timer) -> dict[str, Any]:
    """The fields of a `Measurement` that sum up its runs."""
    own, around = np.array(turns.times), turns.around
    return {
        "latency_ms": float(np.median(own)),
        "p90_ms": float(np.percentile(own, 90)),
        "mad_ms": _mad(own),
        "runs": len(own),
        "verdict": _verdict(_mad(own) / float(np.median(own))),
        "reference_latency_ms": float(np.median(around)) if around else None,
        "speedup": float(np.median(turns.ratios)) if turns.ratios else None,
        "speedup_error_pct": _error_pct(turns.ratios) if turns.ratios else None,
        "prolonged": turns.count > rounds,
        "host_ms": float(np.median(watch.host)) if watch.host else None,
        "device_ms": float(np.median(watch.device)) if watch.device else None,
    }


@dataclass(frozen=True)
class _Lap:
    """Milliseconds of each run in one slot, and the median that ratios are taken of."""

    times: list[float]
    worked: float


class _Slot:
    """One module warmed up, and how often to run it in its slot of a turn."""

    def __init__(self, module: nn.Module, images: Tensor, patience_s: float) -> None:
        self.module, self.images = module, images
        warm = _warm_up(self, deadline=time.perf_counter() + patience_s)
        self.repeats = min(MOST_REPEATS, max(1, math.ceil(SLOT_MS / max(warm, 1e-3) - 1e-6)))
        self.watch = Timer(images.device)

    def once(self) -> object:
        """What the module gives."""
        return self.module(self.images)

    def run(self) -> _Lap:
        """One slot in a turn."""
        self.watch.worked.clear()
        times = [self.watch.time_ms(self.once) for _ in range(self.repeats)]
        return _Lap(times, float(np.median(self.watch.worked)))


@dataclass(frozen=True)
class _Turns:
    """Milliseconds of every run of the model, each turn's ratio, the reference's milliseconds."""

    times: list[float]
    ratios: list[float]
    around: list[float]
    count: int


def _turns(slots: list[_Slot], rounds: int, timeout_s: float) -> _Turns:
    """`slots` holds the model's, then the reference's if there is one."""
    times: list[float] = []
    ratios: list[float] = []
    around: list[float] = []
    start, turn = time.perf_counter(), 0
    while turn < 3 * rounds:
        late = time.perf_counter() - start > timeout_s
        sure = turn >= rounds and _error_pct(ratios) <= SURE_PCT
        enough = sure and _mad(np.array(times)) <= STEADY * np.median(times)
        if turn >= 3 and (late or enough):
            break
        before = [slot.run() for slot in slots[1:]]
        own = slots[0].run()
        beside = [*before, *(slot.run() for slot in slots[1:])]
        times += own.times
        if before:
            around += [float(np.median(lap.times)) for lap in beside]
            ratios.append(float(np.mean([lap.worked for lap in beside])) / own.worked)
        turn += 1
    return _Turns(times, ratios, around, turn)


def _energy(slot: _Slot) -> tuple[float | None, str]:
    """Millijoules of a run and what counted them; none where nothing does."""
    meter = meter_of(slot.images.device)
    if meter is None:
        return None, ""

    def run() -> None:
        slot.once()
        synchronise(slot.images.device)

    found = energy_mj(run, meter)
    return found, "" if found is None else meter.source


def _warm_up(slot: _Slot, *, deadline: float) -> float:
    """The median once those of two successive windows of three runs agree within 5 %."""
    times: list[float] = []
    watch = Timer(slot.images.device)
    while len(times) < WARM_UP_RUNS:
        times.append(watch.time_ms(slot.once))
        old, new = np.median(times[-6:-3] or times), np.median(times[-3:])
        agree = len(times) >= 6 and abs(new - old) <= 0.05 * old
        if agree or (len(times) >= 2 and time.perf_counter() > deadline):
            break
    return float(np.median(times[-3:]))


def _error_pct(ratios: list[float]) -> float:
    """Standard error of the median in per cent of it, by the median deviation; 0 of none."""
    if not ratios:
        return 0.0
    deviation = 1.4826 * _mad(np.array(ratios))
    return 100.0 * 1.2533 * deviation / math.sqrt(len(ratios)) / float(np.median(ratios))


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
    """The GPU's name, or the processor's."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else machine_name()


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
