"""`Measurement`: what measuring one model on some device gave, as plain data that travels."""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autotok.errors import AutotokError

OPTIONAL = (
    *("reference_latency_ms", "speedup", "speedup_error_pct"),
    *("host_ms", "device_ms", "energy_mj"),
)
PROLONGED = " prolonged for noise"


_HOLDS_MORE = (
    "torch and its copy of the model included",
    "the compiler included",
    "with all else that this process holds",
)
"""How readings of earlier versions, which do not say `memory_alone`, end their source."""


def memory_alone(reading: Mapping[str, Any]) -> bool:
    """Whether the peak of a reading, as plain data, is of the model and its runtime alone."""
    told = reading.get("memory_alone")
    source = str(reading.get("memory_source") or "")
    return not source.endswith(_HOLDS_MORE) if told is None else bool(told)


class MeasurementFailed(AutotokError):
    """The device is there but could not measure this model; the message says why."""

    def __init__(self, message: str, *, kind: str = "crash") -> None:
        super().__init__(message)
        self.kind = kind
        """'memory', 'load', 'crash', 'timeout', 'runtime', 'disk' or 'request'."""


@dataclass(frozen=True)
class Measurement:
    """A measured latency of one batch and peak memory, with the circumstances."""

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
    """Where it was measured: a processor, or such as 'ssh://me@board (NVIDIA Jetson Xavier NX)'."""
    runtime: str
    dtype: str
    batch: int
    image_shape: tuple[int, ...]
    threads: int
    when: str
    """UTC, ISO 8601."""
    speedup_error_pct: float | None = None
    """Standard error of the speed-up."""
    prolonged: bool = False
    """More turns than asked for, because the run was noisy."""
    host_ms: float | None = None
    """CUDA: median until the host had launched everything."""
    device_ms: float | None = None
    """CUDA: median by the device's own events, waiting for launches included."""
    energy_mj: float | None = None
    """Of one run, millijoules; None where the machine has no counter."""
    energy_source: str = ""
    memory_alone: bool = True
    """Whether the peak is of the model and its runtime; else `memory_source` says what else it
    holds, and no limit is judged by it."""

    @property
    def throughput_img_s(self) -> float:
        """Images a second."""
        return 1000.0 * self.batch / self.latency_ms

    @property
    def spread_pct(self) -> float:
        """The deviation as a share of the median."""
        return 100.0 * self.mad_ms / self.latency_ms

    @property
    def source(self) -> str:
        """Where the figure came from, in a line."""
        shape = "x".join(map(str, self.image_shape))
        return (
            f"measured ({self.device}, {self.runtime}, {self.dtype}, batch {self.batch}, {shape},"
            f" {self.threads} threads, median of {self.runs}{PROLONGED * self.prolonged}"
            f" +- {self.spread_pct:.1f} %, {self.verdict}, {self.when})"
        )

    def per_image(self) -> Measurement:
        """That of one image, where a batch ran one by one: the mean of its times."""
        singles = {
            name: getattr(self, name) / self.batch
            for name in ("latency_ms", "p90_ms", "mad_ms", "reference_latency_ms", "energy_mj")
            if getattr(self, name) is not None
        }
        return dataclasses.replace(self, batch=1, **singles)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the throughput included."""
        data = {**dataclasses.asdict(self), "image_shape": list(self.image_shape)}
        return data | {"throughput_img_s": self.throughput_img_s}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Measurement:
        """The inverse of `to_dict`; further keys are left out.

        Raises:
            ValueError, TypeError, KeyError: a figure is missing or no positive number.
        """
        values = {
            f.name: data[f.name]
            for f in dataclasses.fields(cls)
            if f.name in data or f.default is dataclasses.MISSING
        }
        values["image_shape"] = tuple(int(side) for side in values["image_shape"])
        for name in ("latency_ms", "p90_ms", "mad_ms", "peak_memory_mb"):
            values[name] = _finite(name, values[name])
        for name in OPTIONAL:
            if values.get(name) is not None:
                values[name] = _finite(name, values[name])
        for name in ("runs", "batch", "threads"):
            values[name] = int(values[name])
        for name in ("verdict", "memory_source", "device", "runtime", "dtype", "when"):
            values[name] = str(values[name])[:300]
        values["prolonged"] = bool(values.get("prolonged"))
        values["memory_alone"] = memory_alone(values)
        values["energy_source"] = str(values.get("energy_source") or "")[:300]
        if values["latency_ms"] == 0.0:
            raise ValueError("latency_ms is 0")
        return cls(**values)


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def _finite(name: str, value: Any) -> float:
    number = float(value)
    if not 0.0 <= number < math.inf:
        raise ValueError(f"{name} is {number}")
    return number
