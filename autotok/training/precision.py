"""Which number format a training computes in."""

from __future__ import annotations

from itertools import pairwise

import torch

from autotok.evaluation.accuracy import default_batch_size
from autotok.evaluation.precision import cpu_has_bf16
from autotok.facts import BackboneFacts
from autotok.names import known

PRECISIONS = ("auto", "bfloat16", "float32")


def resolve_precision(precision: str, device: torch.device) -> str:
    """'bfloat16' or 'float32'; 'auto' takes bfloat16 where the hardware multiplies in it.

    Weights, optimiser and losses stay in float32 either way.
    """
    if known("precision", precision, PRECISIONS) != "auto":
        return precision
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    return "bfloat16" if device.type == "cpu" and cpu_has_bf16() else "float32"


def chunk_size(facts: BackboneFacts, device: torch.device) -> int:
    """Images that go through forward and backward together; a batch is made of such chunks.

    On CPU as many as evaluation takes, so that activations stay in reused memory; on an accelerator
    everything at once.
    """
    if device.type != "cpu":
        return 2**30
    return default_batch_size(facts)


def chunks(count: int, most: int) -> list[slice]:
    """`count` images in chunks of up to `most`, as few as there can be, equal to within one image.

    An image is alone only where all are, for BatchNorm cannot train on one token of one image; so
    where an odd number goes in pairs, three go together.
    """
    number = count if most == 1 else max(1, min(-(-count // most), count // 2))
    edges = [count * i // number for i in range(number + 1)]
    return [slice(first, last) for first, last in pairwise(edges)]
