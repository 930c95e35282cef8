"""Measured time of every block, here and in eager torch, models taking turns."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from statistics import median

import torch
from torch import Tensor

from autotok.compression.model import CompressedViT, TapRequest

WARM_UPS, ROUNDS, LEAST_ROUNDS = 3, 25, 5


@torch.inference_mode()
def block_times(
    models: Sequence[CompressedViT], images: Tensor, *, patience_s: float = 10.0
) -> list[tuple[float, ...]]:
    """Median milliseconds of embedding, blocks (each with its reduction) and read-out, per model.

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
    model.backbone.readout(model.forward_tokens(images, watch=TapRequest(on_block=mark)))
    mark()
    return [1e3 * (end - begin) for begin, end in itertools.pairwise(marks)]
