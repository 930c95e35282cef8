"""Exact cost of the heads of exits: Xu et al., ACM MM 2023; METR, ICLR 2024."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autotok.compression.schedule import Schedule
from autotok.config import CompressionConfig
from autotok.facts import BackboneFacts
from autotok.methods.base import Counts, Placement, Span
from autotok.methods.registry import get_method


def exit_head_macs(
    kind: str, facts: BackboneFacts, layer: int, rows: Counts
) -> tuple[Counts, Counts]:
    """Multiply-accumulates (M,) of a head behind block `layer` whose products run over `rows` (M,)
    patch tokens, and those without attention products."""
    width, two = facts.blocks[layer].width, facts.pooling == "cls+dist"
    answer = (2 if two else 1) * width * facts.num_classes
    linear = answer if two else width * width + answer
    products = rows * 0
    if kind == "metr":
        total = rows * 0 + width * width + width * facts.num_classes
    elif kind == "linear":
        total = rows * 0 + linear
    elif kind == "vit":
        tokens = rows + facts.num_prefix
        total, products = 12 * width**2 * tokens + linear, 2 * width * tokens**2
    elif kind.startswith("local"):
        total = 2 * width**2 * rows + (9 * width * rows if kind == "local-dw" else 0) + answer
    else:
        total, products = 4 * width**2 * rows + answer, 2 * width * rows**2
    return total + products, total


def exit_head_params(kind: str, facts: BackboneFacts, layer: int) -> int:
    """Parameters of a head behind block `layer`."""
    width, two = facts.blocks[layer].width, facts.pooling == "cls+dist"
    classifiers = (2 if two else 1) * (width + 1) * facts.num_classes
    linear = classifiers + (2 * width if two else width * (width + 1))
    if kind == "metr":
        return width * width + width * facts.num_classes + 3 * width + facts.num_classes
    if kind == "linear":
        return linear
    if kind == "vit":
        return 12 * width**2 + 13 * width + linear
    if kind.startswith("local"):
        depthwise = 12 * width if kind == "local-dw" else 0
        return 2 * width * (width + 1) + 4 * width + depthwise + classifiers
    return 4 * width**2 + width + classifiers


def leaving_counts(
    facts: BackboneFacts, config: CompressionConfig, schedule: Schedule
) -> list[int]:
    """Nominal patch tokens that leave each block, (L,)."""
    method = get_method(config.method)
    leaving = []
    for layer in range(facts.num_blocks):
        if method.span is Span.BLOCK:
            leaving.append(facts.num_patches)
        elif method.placement is Placement.AFTER and layer in schedule.by_layer:
            leaving.append(schedule.by_layer[layer])
        else:
            leaving.append(schedule.mlp[layer])
    return leaving


def scheduled_rows(
    facts: BackboneFacts, config: CompressionConfig, leaving: list[int]
) -> NDArray[np.int64]:
    """(E, 1): the most tokens that each head's products run over."""
    policy = config.exits
    assert policy is not None
    rows = []
    for layer, kind in zip(policy.layers, policy.kinds, strict=True):
        count = leaving[layer]
        if kind.startswith("global") and count == facts.num_patches:
            step = int(kind.removeprefix("global-"))
            count = -(-facts.grid[0] // step) * -(-facts.grid[1] // step)
        rows.append([count])
    return np.array(rows, dtype=np.int64)
