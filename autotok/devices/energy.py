"""Energy of a run, where the machine counts it: NVML, RAPL, or a Jetson's own sensors.

What is read is the whole package's, GPU's or board's energy, idle power and neighbours included;
where a machine offers no counter, or keeps it from this user, there is no figure.
"""

from __future__ import annotations

import importlib
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch

__all__ = ["EnergyMeter", "energy_mj", "find_meter"]

SYSFS = Path("/sys")
SECONDS = 1.0
"""Counters tick every millisecond (RAPL) to tenth of a second (NVML); runs fill this time."""
_SAMPLE_S = 0.01
_INA = ("ina3221", "ina3221x")
_WHOLE_BOARD = re.compile(r"(VDD|POM_5V|VDD_5V)_IN")
"""Rails that everything else is fed from."""


class EnergyMeter(Protocol):
    """Something that counts joules."""

    source: str
    """What is read, in words."""

    def start(self) -> None:
        """Begin to count."""
        ...

    def stop(self) -> float:
        """Joules since the start."""
        ...


def find_meter(device: torch.device, *, sysfs: Path = SYSFS) -> EnergyMeter | None:
    """The counter of what computes on `device`; None where there is none that may be read."""
    if device.type == "cuda":
        return _nvml(device) or _sensors(sysfs)
    return (_rapl(sysfs) or _sensors(sysfs)) if device.type == "cpu" else None


def energy_mj(
    run: Callable[[], object], meter: EnergyMeter, *, seconds: float = SECONDS
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


class CountingMeter:
    """Counters that go up, in microjoules, and begin anew at their range."""

    def __init__(self, read: Callable[[], list[float]], ranges: list[float], source: str) -> None:
        self._read, self._ranges, self.source = read, ranges, source
        self._before: list[float] = []

    def start(self) -> None:
        """Note where they stand."""
        self._before = self._read()

    def stop(self) -> float:
        """Joules since the start."""
        pairs = zip(self._before, self._read(), self._ranges, strict=True)
        steps = [now - old if now >= old else now - old + whole for old, now, whole in pairs]
        return sum(steps) / 1e6


class SamplingMeter:
    """Watts read over and over in a thread, and added up."""

    def __init__(self, watts: Callable[[], float], source: str) -> None:
        self._watts, self.source = watts, source
        self._samples: list[tuple[float, float]] = []
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to read."""
        self._samples, self._over = [], threading.Event()
        self._sample()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """Joules since the start, by the trapezoid rule."""
        self._over.set()
        assert self._thread is not None
        self._thread.join()
        self._sample()
        pairs = zip(self._samples, self._samples[1:], strict=False)
        return sum((t1 - t0) * (w0 + w1) / 2 for (t0, w0), (t1, w1) in pairs)

    def _work(self) -> None:
        while not self._over.wait(_SAMPLE_S):
            self._sample()

    def _sample(self) -> None:
        try:
            self._samples.append((time.perf_counter(), self._watts()))
        except (OSError, ValueError):
            pass  # a sensor that is busy misses a sample


def _rapl(sysfs: Path) -> EnergyMeter | None:
    """Intel's and AMD's processor packages."""
    zones = []
    for zone in sorted((sysfs / "class/powercap").glob("intel-rapl:*")):
        name = _text(zone / "name")
        if zone.name.count(":") == 1 and name is not None and name.startswith("package"):
            zones.append((zone / "energy_uj", _number(zone / "max_energy_range_uj")))
    if not zones or any(_number(file) is None for file, _ in zones):
        return None  # kept for the administrator, on most systems

    def read() -> list[float]:
        return [float(file.read_text()) for file, _ in zones]

    packages = f"{len(zones)} processor package{'s' if len(zones) > 1 else ''}"
    return CountingMeter(read, [whole or 0.0 for _, whole in zones], f"RAPL, {packages}")


def _sensors(sysfs: Path) -> EnergyMeter | None:
    """The INA3221 of Jetson modules: the rail that feeds the board, else all that are named."""
    rails = {**_hwmon_rails(sysfs), **_iio_rails(sysfs)}
    whole = sorted(name for name in rails if _WHOLE_BOARD.fullmatch(name))
    chosen = whole[:1] or sorted(rails)
    if not chosen:
        return None
    return SamplingMeter(
        lambda: sum(rails[name]() for name in chosen), f"INA3221, {' + '.join(chosen)}"
    )


def _hwmon_rails(sysfs: Path) -> dict[str, Callable[[], float]]:
    """Watts of each labelled channel; JetPack 5 and later, and mainline kernels."""
    rails: dict[str, Callable[[], float]] = {}
    for chip in sorted((sysfs / "class/hwmon").glob("hwmon*")):
        if _text(chip / "name") not in _INA:
            continue
        for label in sorted(chip.glob("in*_label")):
            channel = label.name[2:-6]
            volts, amperes = chip / f"in{channel}_input", chip / f"curr{channel}_input"
            name = _text(label)
            if name and _number(volts) is not None and _number(amperes) is not None:
                rails[name] = _product(volts, amperes)
    return rails


def _iio_rails(sysfs: Path) -> dict[str, Callable[[], float]]:
    """Watts of each named rail; JetPack 4."""
    rails: dict[str, Callable[[], float]] = {}
    pattern = "bus/i2c/drivers/ina3221x/*/iio:device*/rail_name_*"
    for label in sorted(sysfs.glob(pattern)):
        power = label.with_name(f"in_power{label.name.rpartition('_')[2]}_input")
        name = _text(label)
        if name and _number(power) is not None:
            rails[name] = _scaled(power, 1e-3)
    return rails


def _nvml(device: torch.device) -> EnergyMeter | None:
    """NVIDIA's own counter, where its Python package is installed."""
    try:
        nvml: Any = importlib.import_module("pynvml")
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{_uuid(device)}")
    except Exception:  # not installed, no driver, a GPU it does not know: it is only a figure
        return None
    try:
        nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        return CountingMeter(
            lambda: [1e3 * nvml.nvmlDeviceGetTotalEnergyConsumption(handle)], [0.0], "NVML, energy"
        )
    except Exception:  # older than Volta
        pass
    try:
        nvml.nvmlDeviceGetPowerUsage(handle)
    except Exception:
        return None
    return SamplingMeter(lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1e3, "NVML, power sampled")


def _uuid(device: torch.device) -> str:
    return str(torch.cuda.get_device_properties(device).uuid)


def _product(volts: Path, amperes: Path) -> Callable[[], float]:
    """Watts from millivolts and milliamperes."""
    return lambda: float(volts.read_text()) * float(amperes.read_text()) / 1e6


def _scaled(file: Path, factor: float) -> Callable[[], float]:
    return lambda: float(file.read_text()) * factor


def _text(file: Path) -> str | None:
    try:
        return file.read_text().strip()
    except OSError:
        return None


def _number(file: Path) -> float | None:
    try:
        return float(file.read_text())
    except (OSError, ValueError):
        return None
