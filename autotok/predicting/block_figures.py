"""Where a model's cost, time and memory go: block by block, and by class of operator."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from autotok.compression.model import CompressedViT
from autotok.counting.operators import OperatorClass

from .latency_model import device_ms, fused
from .predict import bare_prediction, trace_for
from .target import Target
from .trace import MB, Trace, trace


@dataclass(frozen=True)
class BlockFigures:
    """One block with its reduction and the head of an exit behind it; the embedding is block -1,
    the read-out the one after the last.

    Cost and memory are those of a whole batch.
    """

    block: int
    macs: int
    live_mb: float
    """Highest sum of live tensors, weights not included."""
    predicted_ms: float | None = None


@dataclass(frozen=True)
class ModelFigures:
    """A model taken apart."""

    blocks: tuple[BlockFigures, ...]
    by_class: dict[str, float]
    """Predicted milliseconds on the device's own part, by class of operator; empty without a
    target."""
    latency_ms: float | None = None
    """Predicted for the whole."""
    bound_by: str = ""
    """Where a target launches kernels asynchronously: what it waits for, 'dispatch' or 'device'."""

    @property
    def peak(self) -> BlockFigures:
        """The block that sets the peak of memory."""
        return max(self.blocks, key=lambda found: found.live_mb)


def model_figures(
    model: CompressedViT, target: Target | None = None, *, batch: int = 1
) -> ModelFigures:
    """Cost, live memory and, for a target, predicted time of every block of a batch."""
    how = None if target is None else target.setting()
    traced = trace(model, batch=batch) if target is None else trace_for(model, target, batch=batch)
    times: Sequence[float | None] = [None] * len(traced.segments)
    bound, by_class, latency_ms = "", dict[str, float](), None
    if target is not None and how is not None:
        whole = bare_prediction(traced, target, "eager")
        latency_ms = whole.latency_ms
        if how.asynchronous:
            bound = "dispatch" if whole.host_ms > whole.device_ms else "device"
        times = [_milliseconds(traced, i, target, bound) for i in range(len(traced.segments))]
        by_class = _by_class(traced, target)
    blocks = (
        BlockFigures(
            block=segment.block,
            macs=sum(op.macs for op in traced.operators_of(segment)),
            live_mb=segment.peak_live_bytes / MB,
            predicted_ms=time,
        )
        for segment, time in zip(traced.segments, times, strict=True)
    )
    return ModelFigures(tuple(blocks), by_class, latency_ms, bound)


def _milliseconds(traced: Trace, index: int, target: Target, bound: str) -> float:
    """Of one segment: what the whole model waits for there, the fixed part left out."""
    operators = traced.operators_of(traced.segments[index])
    part = bare_prediction(dataclasses.replace(traced, operators=operators), target, "eager")
    if not bound:
        return part.host_ms + part.device_ms
    return part.host_ms if bound == "dispatch" else part.device_ms


def _by_class(traced: Trace, target: Target) -> dict[str, float]:
    """Milliseconds the kernels of each class take, the slowest class first."""
    how = target.setting()
    kernels = fused(traced.operators, how.fusion)
    found = {
        kind.value: device_ms(
            [k for k in kernels if k.kind is kind], target, how,
            dtype=traced.dtype, pooled=traced.pooled,
        )
        for kind in OperatorClass
    }  # fmt: skip
    return {k: v for k, v in sorted(found.items(), key=lambda item: -item[1]) if v > 0.0}
