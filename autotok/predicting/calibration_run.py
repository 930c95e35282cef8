"""`CalibrationRun`: many candidates measured one by one, each beside its uncompressed backbone.

What a device refuses is passed over, and another candidate takes its place; a method that it
cannot take is not tried for ever, nor is a backbone that does not fit on it.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from autotok.backbones.loading import load_structure
from autotok.compression.calibrate import calibrated, needs_calibration
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig
from autotok.errors import AutotokError, DeviceUnreachable

from .fitting import Array
from .measurers import Measurer, Sample

_LOG = logging.getLogger(__name__)
LEAST = 10
"""Measurements that time running short does not cut off."""
MOST_S = 4.0
MOST_REFUSALS = 2
"""Of one method; then no other configuration of it is tried."""
IN_A_ROW, LATE_IN_A_ROW = 10, 3
"""Refusals after which a sitting ends, and when time is up already."""
PASSING = ("memory", "timeout", "crash", "disk")
"""Kinds of refusal that are about the size of one model, not about its method."""
OnStep = Callable[[float, str], None]


@dataclass(frozen=True)
class CalibrationCandidate:
    """A configuration of one backbone, and what its trace says."""

    backbone: str
    config: CompressionConfig
    amounts: Array
    """(T,) of the terms."""
    memory: Array
    """(3,), see `memory_row`."""
    launches: int
    """Kernels."""


@dataclass(frozen=True)
class Measured:
    """A candidate and its latency."""

    candidate: CalibrationCandidate
    latency_ms: float
    """Ratio to the uncompressed backbone, times the latter's median over the whole sitting."""
    spread: float
    """Median absolute deviation as a share."""
    reference_ms: float = float("nan")
    """The backbone's median over the whole sitting."""
    peak_mb: float | None = None
    """Where it came with the latency."""


class CalibrationRun:
    """Backbones with random weights, and what was measured of them."""

    def __init__(
        self, measurer: Measurer, backbones: Iterable[str], *, batch: int, seed: int = 0
    ) -> None:
        self._measurer = measurer
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self._runnable = {name: load_structure(name, device="cpu") for name in backbones}
        generator = torch.Generator().manual_seed(seed)
        self._images = {
            name: torch.randn(batch, *b.facts.image_shape, generator=generator)
            for name, b in self._runnable.items()
        }
        self._samples: list[tuple[CalibrationCandidate, Sample]] = []
        self._refusals: Counter[str] = Counter()
        self._too_large: set[str] = set()
        self._in_a_row = 0
        self.last_refusal = ""
        """In words."""

    def run(
        self,
        wanted: Sequence[CalibrationCandidate],
        *,
        seconds: float,
        instead: Callable[[CalibrationCandidate], CalibrationCandidate | None] = lambda failed: (
            None
        ),
        on_step: OnStep = lambda share, text: None,
    ) -> None:
        """Measure them; `instead` names another for one that was refused.

        Ends after `seconds`, then without the last of them, but not before ten were measured.

        Raises:
            DeviceUnreachable: the device does not answer.
        """
        deadline = time.perf_counter() + seconds
        queue, total = deque(wanted), len(wanted)
        while queue:
            item, done = queue.popleft(), len(self._samples)
            share = (deadline - time.perf_counter()) / (len(queue) + 1)
            if self._ends(late=share <= 0):
                return
            text = f"measuring {item.backbone} {item.config.method} ({done + 1} of {total})"
            on_step(0.3 + 0.7 * done / total, text)
            if not self._hopeless(item) and self._measure(item, min(share, MOST_S) * 0.9):
                continue
            other = instead(item)
            while other is not None and self._hopeless(other):
                other = instead(other)
            if other is not None:
                queue.append(other)

    def rows(self) -> list[Measured]:
        """What was measured, in that order."""
        times: dict[str, list[float]] = {}
        for item, found in self._samples:
            times.setdefault(item.backbone, []).append(found.reference_ms)
        usual = {name: float(np.median(values)) for name, values in times.items()}
        return [
            Measured(
                item,
                found.ratio * usual[item.backbone],
                found.spread,
                usual[item.backbone],
                found.peak_mb,
            )
            for item, found in self._samples
        ]

    def _measure(self, item: CalibrationCandidate, seconds: float) -> bool:
        """Whether it could be measured."""
        backbone, images = self._runnable[item.backbone], self._images[item.backbone]
        model = compress_backbone(backbone, item.config).eval()
        if needs_calibration(item.config):
            model = calibrated(model, images)
        try:
            found = self._measurer.measure(model, images, backbone, seconds=seconds)
        except DeviceUnreachable:
            raise
        except AutotokError as error:
            self._note(item, error)
            return False
        self._in_a_row = 0
        self._samples.append((item, found))
        return True

    def _note(self, item: CalibrationCandidate, error: AutotokError) -> None:
        """Remember a refusal and say so."""
        self._in_a_row += 1
        self.last_refusal = str(error)
        if not item.config.reductions:
            self._too_large.add(item.backbone)
        elif getattr(error, "kind", "") not in PASSING:
            self._refusals[item.config.method] += 1
        _LOG.warning("passed over: %s %s: %s", item.backbone, item.config.method, error)

    def _hopeless(self, item: CalibrationCandidate) -> bool:
        refused = self._refusals[item.config.method] >= MOST_REFUSALS
        return refused or item.backbone in self._too_large

    def _ends(self, *, late: bool) -> bool:
        enough = len(self._samples) >= LEAST or self._in_a_row >= LATE_IN_A_ROW
        return (late and enough) or self._in_a_row >= IN_A_ROW
