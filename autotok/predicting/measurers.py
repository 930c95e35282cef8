"""Who measures for a calibration: this machine, in turns, or a device that sends readings."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from autotok.devices.board import MB, Timer, installed_mb
from autotok.devices.interleaved import clock_for, interleaved
from autotok.devices.measure import device_name
from autotok.devices.measurement import Measurement, MeasurementFailed

CPU = torch.device("cpu")
SAME = ("runtime", "dtype", "threads")
"""What one latency model cannot mix."""


@dataclass(frozen=True)
class Machine:
    """What was measured on, as a target file records it."""

    name: str
    """Processor or board."""
    account: str
    """What it says of itself: cores, system, versions."""
    runtime: str
    threads: int
    clock: str
    """One of `interleaved.CLOCKS`."""
    dtype: str = "float32"
    memory_mb: float | None = None
    """Installed; None where it does not say."""
    memory_source: str = ""


@dataclass(frozen=True)
class Sample:
    """One model beside its reference."""

    ratio: float
    """Its latency over the reference's."""
    spread: float
    """Median absolute deviation as a share."""
    reference_ms: float
    """Median of the reference's own times."""
    peak_mb: float | None = None
    """Peak memory, where it comes with the latency."""


class Measurer(Protocol):
    """Measures models beside a reference."""

    tells_memory: bool
    """Whether samples carry peak memory."""

    def machine(self) -> Machine:
        """Where it measures; to be asked after a measurement."""
        ...

    def measure(
        self, model: nn.Module, images: Tensor, reference: nn.Module, *, seconds: float
    ) -> Sample:
        """`model(images)` beside the reference; `seconds` are the patience there is.

        Raises:
            DeviceUnreachable: the device does not answer.
            AutotokError: this model cannot be measured there; the message says why.
        """
        ...


class InterleavedMeasurer:
    """This machine, on a device of it: torch, its present number of threads, R M R M R."""

    def __init__(self, device: torch.device = CPU) -> None:
        self._device = device
        self.tells_memory = device.type == "cuda"

    def machine(self) -> Machine:
        return this_machine(self._device)

    def measure(
        self, model: nn.Module, images: Tensor, reference: nn.Module, *, seconds: float
    ) -> Sample:
        clock, images = clock_for(self._device, torch.get_num_threads()), images.to(self._device)
        try:
            model.to(self._device), reference.to(self._device)
            found = interleaved(model, images, reference, clock=clock, seconds=seconds)
            peak = self._peak_mb(model, images) if self.tells_memory else None
        finally:
            model.cpu(), reference.cpu()
        return Sample(found.ratio, found.spread, found.reference_ms, peak)

    @torch.inference_mode()
    def _peak_mb(self, model: nn.Module, images: Tensor) -> float:
        return Timer(lambda: model(images), self._device).peak_memory()[0]


class DeviceMeasurer:
    """A device; each of its readings holds latency, the reference's, and peak memory."""

    tells_memory = True

    def __init__(
        self,
        measure: Callable[[nn.Module, Tensor, nn.Module], Measurement],
        machine: Callable[[Measurement], Machine],
    ) -> None:
        """`machine` makes of the first reading what is known of the device."""
        self._measure, self._machine = measure, machine
        self._first: Measurement | None = None

    def machine(self) -> Machine:
        assert self._first is not None, "asked before anything was measured"
        return self._machine(self._first)

    def measure(
        self, model: nn.Module, images: Tensor, reference: nn.Module, *, seconds: float
    ) -> Sample:
        """Measured there, in its own time.

        Raises:
            MeasurementFailed: it came about in another way than the first, or without a reference.
        """
        found = self._measure(model, images, reference)
        first = found if self._first is None else self._first
        for what in SAME:
            if getattr(found, what) != getattr(first, what):
                raise MeasurementFailed(
                    f"device '{found.device}' measured with {what} {getattr(found, what)} after"
                    f" {getattr(first, what)}; one calibration holds one of them only"
                )
        if found.speedup is None or found.reference_latency_ms is None:
            raise MeasurementFailed(
                f"device '{found.device}' gave no time of the uncompressed model beside this one"
            )
        self._first = first
        share = found.spread_pct / 100
        peak = found.peak_memory_mb if found.memory_alone else None
        return Sample(1 / found.speedup, share, found.reference_latency_ms, peak)


def this_machine(device: torch.device = CPU) -> Machine:
    """Processor, or GPU, system and memory of the machine this runs on."""
    name, threads, memory = device_name(device), torch.get_num_threads(), installed_mb()
    source = "the operating system"
    if device.type == "cuda":
        memory, source = torch.cuda.get_device_properties(device).total_memory / MB, "its driver"
    return Machine(
        name=name,
        account=f"{name}, {os.cpu_count()} CPUs, {platform.system()} {platform.machine()}",
        runtime=f"torch {torch.__version__} eager",
        threads=threads,
        clock=clock_for(device, threads),
        memory_mb=memory,
        memory_source=f"measured: what {source} reports",
    )
