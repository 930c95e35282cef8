"""Measured time of every block and class of operator, here and in eager torch."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from statistics import median

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from autotok.compression.model import CompressedViT
from autotok.counting.operators import classify

WARM_UPS, ROUNDS, LEAST_ROUNDS, PROFILED = 3, 25, 5, 3


@torch.inference_mode()
def block_times(
    models: Sequence[CompressedViT], images: Tensor, *, patience_s: float = 10.0
) -> list[tuple[float, ...]]:
    """Median milliseconds of embedding, blocks (each with its reduction, and the head of an exit
    behind it) and read-out, per model.

    Where the device works asynchronously it is waited for at every border, so the sum is more than
    the latency of a model whose kernels queue.

    Args:
        models: In evaluation mode, on the device of `images`.
        images: One batch, normalised.
        patience_s: No further round begins after so long, five excepted.
    """
    for model in models:
        for _ in range(WARM_UPS):
            _timed(model, images)
    taken: list[list[list[float]]] = [[] for _ in models]
    deadline = time.perf_counter() + patience_s
    for number in range(ROUNDS):
        if number >= LEAST_ROUNDS and time.perf_counter() > deadline:
            break
        for model, rows in zip(models, taken, strict=True):
            rows.append(_timed(model, images))
    return [tuple(median(column) for column in zip(*rows, strict=True)) for rows in taken]


@torch.inference_mode()
def operator_shares(model: CompressedViT, images: Tensor) -> dict[str, float]:
    """Per cent of the time of `model(images)` in each class of operator, the largest first.

    By torch's profiler, which slows small operators more than large ones: shares, not times.
    """
    gpu = images.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]
    model(images)
    with profile(activities=activities) as profiler:
        for _ in range(PROFILED):
            model(images)
    found: dict[str, float] = {}
    for event in profiler.key_averages():
        if event.key.startswith("aten::"):
            kind = classify(event.key.removeprefix("aten::")).value
            spent = event.self_device_time_total if gpu else event.self_cpu_time_total
            found[kind] = found.get(kind, 0.0) + spent
    total = sum(found.values()) or 1.0
    return {k: 100 * v / total for k, v in sorted(found.items(), key=lambda item: -item[1]) if v}


def _timed(model: CompressedViT, images: Tensor) -> list[float]:
    """Milliseconds between the borders of one run."""
    marks: list[float] = []

    def mark(_: int = 0) -> None:
        if images.device.type == "cuda":
            torch.cuda.synchronize(images.device)
        elif images.device.type == "mps":
            torch.mps.synchronize()
        marks.append(time.perf_counter())

    mark()
    model.run_to_end(images, mark)
    mark()
    return [1e3 * (end - begin) for begin, end in itertools.pairwise(marks)]
