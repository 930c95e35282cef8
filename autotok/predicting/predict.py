"""Latency and peak memory from an operator trace and a target's coefficients.

    host    = dispatch * kernels
    device  = sum over kernels, see `latency_model.py`
    latency = fixed + max(host, device)     where kernels queue (CUDA)
              fixed + host + device         where the host computes itself (CPU)
    memory  = weights + runtime base + overhead * peak of live tensors

The maximum, not the sum, on asynchronous devices: that is why a small ViT and one four times its
cost take the same time at batch 1, and why many small kernels cost so much there.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn

from autotok.backbones.base import Backbone
from autotok.backbones.loading import as_backbone, load_structure
from autotok.compression.compress import compress_backbone
from autotok.compression.model import CompressedViT
from autotok.config import CompressionConfig, Reduction
from autotok.metrics import METRICS
from autotok.names import check_number

from .as_published import as_published
from .latency_model import device_ms as device_ms_of
from .latency_model import fused
from .target import Target, load_target
from .target_parts import STORED_AS, CalibrationRecord, PublishedPoint
from .trace import MB, Trace, trace

MODEL_VERSION = 1
_RUNS_IN = {"eager": "PyTorch eager", "compile": "torch.compile"}


@dataclass(frozen=True)
class Prediction:
    """A predicted latency of one batch and peak memory, and what stands behind them."""

    latency_ms: float
    peak_memory_mb: float
    error_pct: float | None
    """Largest latency error at the target's points of this number format in per cent; None if no
    point was held out, or all were of other batches."""
    memory_error_pct: float | None
    """The same of peak memory."""
    source: str
    target: str
    setting: str
    dtype: str
    batch: int
    image_shape: tuple[int, int, int]
    host_ms: float
    device_ms: float

    @property
    def throughput_img_s(self) -> float:
        """Images a second."""
        return 1000.0 * self.batch / self.latency_ms


@dataclass(frozen=True)
class CheckedPoint:
    """A published figure beside what the model predicts for it today."""

    point: PublishedPoint
    predicted: float
    published: float
    error_pct: float
    fitted: bool


def predict_trace(trace: Trace, target: Target, *, setting: str = "eager") -> Prediction:
    """Predict a traced model on a target; dtype and batch are those of the trace.

    Raises:
        UnknownName: the target knows no such setting, or no peak for the dtype.
        ConfigError: the target was calibrated in another dtype.
    """
    of = {"dtype": trace.dtype, "batch": trace.batch}
    behind = provenance(target, setting=setting, dtype=trace.dtype, batch=trace.batch)
    return dataclasses.replace(
        bare_prediction(trace, target, setting),
        source=f"predicted (model {MODEL_VERSION}, {behind})",
        error_pct=checked_error_pct(target, setting, **of),
        memory_error_pct=checked_error_pct(target, setting, what="memory", **of),
    )


def conditions(target: Target, *, setting: str = "eager", dtype: str | None = None) -> str:
    """The runtime and number format that predictions are of, as 'PyTorch eager float32'."""
    record = target.calibration
    own = "" if record is None or setting != "eager" else record.runtime
    return f"{own or _RUNS_IN.get(setting, setting)} {dtype or target.default_dtype}"


def provenance(
    target: Target,
    *,
    setting: str = "eager",
    dtype: str | None = None,
    batch: int | None = None,
) -> str:
    """What predictions for a target are of and what stands behind them, in words: runtime, number
    format, points, errors, or nothing. By default of the target's own number format and batch."""
    of = f"target {target.name}, {conditions(target, setting=setting, dtype=dtype)}"
    if not target.is_checked:
        return f"{of}, never checked: an estimate"
    if target.calibration is not None:
        return f"{of}; {_calibrated(target.calibration, batch or target.default_batch)}"
    of_these = dtype or target.default_dtype, batch or target.default_batch
    parts = [_standing(target, setting, what, *of_these) for what in ("latency", "memory")]
    return f"{of}; {'; '.join(parts)}"


def num_checked(target: Target, what: str, batch: int | None = None) -> int:
    """How many points latency or memory predictions of a target, in its own number format and by
    default of its own batch, were checked at."""
    record = target.calibration
    if record is not None:
        return record.held_out if what == "latency" else record.memory_points
    return len(_points(target, what, target.default_dtype, batch or target.default_batch))


def _points(
    target: Target, what: str, dtype: str, batch: int | None = None
) -> list[PublishedPoint]:
    """The points of latency or memory in a number format that speak for a batch, or for any."""
    every = [p for p in target.checked_against if _concerns(p) == what and p.dtype == dtype]
    return [p for p in every if batch is None or _speaks_for(p, batch)]


def _speaks_for(point: PublishedPoint, batch: int) -> bool:
    """Whether a point tells how far off a batch may be: its own; of memory smaller ones too, where
    less is left to the factor that live tensors are multiplied with."""
    return batch <= point.batch if _concerns(point) == "memory" else batch == point.batch


def _calibrated(record: CalibrationRecord, batch: int) -> str:
    when = f"calibrated {record.when[:10]} (at batch {record.batch})"
    if batch != record.batch:
        return f"{when}, never checked at batch {batch}"
    words = (
        f"{when}, {record.within_10_pct:.0f} % of {record.held_out} unseen"
        f" configurations within 10 %, worst {record.worst_pct:.1f} %"
    )
    if record.memory_worst_pct is None:
        return f"{words}; memory never checked"
    return f"{words}; memory errors up to {record.memory_worst_pct:.1f} %"


def _standing(target: Target, setting: str, what: str, dtype: str, batch: int) -> str:
    """In words, how far latency or memory predictions of a target were checked at a batch."""
    points = _points(target, what, dtype, batch)
    error = checked_error_pct(target, setting, what=what, dtype=dtype, batch=batch)
    if not points:
        others = ", ".join(map(str, sorted({p.batch for p in _points(target, what, dtype)})))
        at = f" at batch {batch} (points: batch {others})" if others else ""
        return f"{what} never checked{at}"
    count = f"{len(points)} point{'s' * (len(points) > 1)}"
    if error is None:
        return f"{what} fitted to {count}, none held out to check it"
    held_out = sum(point.role == "held out" for point in points)
    return f"{what} errors up to {error:.1f} % at {count}, {held_out} held out"


def bare_prediction(
    trace: Trace, target: Target, setting: str, *, launch_correction: int = 0
) -> Prediction:
    """The bare formula, without what stands behind it (as that needs traces of its own)."""
    how = target.setting(setting)
    kernels = fused(trace.operators, how.fusion)
    launches = sum(kernel.launches for kernel in kernels)
    device_ms = device_ms_of(kernels, target, how, dtype=trace.dtype, pooled=trace.pooled)
    if how.asynchronous:
        device_ms += how.kernel_start_us.value * launch_correction / 1e3
    host_ms = how.dispatch_us.value * (launches + launch_correction) / 1e3
    busy_ms = max(host_ms, device_ms) if how.asynchronous else host_ms + device_ms
    live = how.activation_overhead.value * trace.peak_live_bytes
    return Prediction(
        latency_ms=how.fixed_ms.value + busy_ms,
        peak_memory_mb=(trace.weight_bytes + live) / MB + how.runtime_base_mb.value,
        error_pct=None,
        memory_error_pct=None,
        source="",
        target=target.name,
        setting=setting,
        dtype=trace.dtype,
        batch=trace.batch,
        image_shape=trace.image_shape,
        host_ms=host_ms,
        device_ms=device_ms,
    )


@lru_cache(maxsize=64)
def checked_error_pct(
    target: Target,
    setting: str = "eager",
    *,
    what: str = "latency",
    dtype: str | None = None,
    batch: int | None = None,
) -> float | None:
    """Largest error in per cent over the target's points of `what` in a number format and at a
    batch, by default the target's own, re-predicted now.

    None where no point was held out: coefficients always meet the points they were made from. Of a
    calibrated target, the largest error of the configurations it kept aside then. None as well for
    a batch that no point speaks for.
    """
    dtype, batch = dtype or target.default_dtype, batch or target.default_batch
    if target.calibration is not None:
        record = target.calibration
        if (dtype, batch) != (record.dtype, record.batch):
            return None
        return record.worst_pct if what == "latency" else record.memory_worst_pct
    wanted = _points(target, what, dtype, batch)
    rows = [row for row in check_points(target, setting=setting) if row.point in wanted]
    if all(row.fitted for row in rows):
        return None
    return max(abs(row.error_pct) for row in rows)


def _concerns(point: PublishedPoint) -> str:
    return METRICS[point.metric].aspect


def check_points(target: Target, *, setting: str = "eager") -> list[CheckedPoint]:
    """Predict every point the target is checked against, and compare; nothing is looked up.

    Points measured with somebody else's code are predicted with that code's kernel count (see
    `Reference`), since that is what was timed.
    """
    fused = target.setting(setting).fused_attention
    rows = []
    for point in target.checked_against:
        traced, correction = _traced(point, fused)
        result = bare_prediction(traced, target, setting, launch_correction=correction)
        predicted = float(getattr(result, point.metric))
        error = 100.0 * (predicted - point.value) / point.value
        rows.append(CheckedPoint(point, predicted, point.value, error, point.role == "fitted"))
    return rows


@lru_cache(maxsize=128)
def _traced(point: PublishedPoint, fused: bool) -> tuple[Trace, int]:
    """The trace of a point, and how many kernels more the code that was timed launches."""
    if point.reference is None:
        return _trace_point(point, point.method, fused=fused), 0
    fused = fused and point.reference.fused_attention
    own = _trace_point(point, point.method, fused=fused)
    plain = _trace_point(point, "none", fused=fused)
    added = point.reference.launches_per_reduction * len(point.num_keep)
    return own, plain.launches + added - own.launches


def _trace_point(point: PublishedPoint, method: str, *, fused: bool) -> Trace:
    amounts = () if method == "none" else zip(point.layers, point.num_keep, strict=True)
    reductions = tuple(Reduction(layer, num_keep=n) for layer, n in amounts)
    options = {} if method == "none" else dict(point.options)
    config = CompressionConfig(method=method, options=options, reductions=reductions)
    backbone, reference = _structure(point.backbone), point.reference
    if reference is not None and reference.relative_positions == "dense":
        backbone = as_published(backbone, proportional=reference.proportional)
    model = compress_backbone(backbone, config)
    return _traced_in(model, point.dtype, batch=point.batch, fused=fused)


def _traced_in(model: CompressedViT | Backbone, dtype: str, *, batch: int, fused: bool) -> Trace:
    """A trace that is of a number format, however its tensors are stored."""
    stored = getattr(torch, STORED_AS[dtype])
    traced = trace(model, batch=batch, dtype=stored, fused_attention=fused)
    return dataclasses.replace(traced, dtype=dtype)


def trace_for(
    model: CompressedViT | Backbone,
    target: Target,
    *,
    batch: int | None = None,
    dtype: str | None = None,
) -> Trace:
    """The trace that predictions for a target are made from, by default in its own number format
    and of as many images as it names.

    Raises:
        UnknownName, ConfigError: a number format that cannot be predicted there, see
            `Target.check_dtype`; a batch below 1.
    """
    dtype, batch = dtype or target.default_dtype, target.default_batch if batch is None else batch
    target.check_dtype(dtype)
    check_number("batch", batch)
    return _traced_in(model, dtype, batch=batch, fused=target.setting().fused_attention)


@lru_cache(maxsize=8)
def _structure(name: str) -> Backbone:
    return load_structure(name)


def predict(
    model: nn.Module,
    target: str | Path | Target,
    *,
    batch: int | None = None,
    dtype: str | None = None,
) -> Prediction:
    """Predicted latency and peak memory of a model on a target.

    Args:
        model: Compressed or not, on any device; it is neither run nor changed.
        target: A target, its name, or the path of its file.
        batch: Images at once; by default as the target says.
        dtype: Number format of weights and images; by default as the target says.

    Raises:
        UnknownName, ConfigError: see `trace_for`.
    """
    chosen = target if isinstance(target, Target) else load_target(target)
    runnable = model if isinstance(model, CompressedViT) else as_backbone(model)
    return predict_trace(trace_for(runnable, chosen, batch=batch, dtype=dtype), chosen)
