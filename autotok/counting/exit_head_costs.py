"""Exact cost of the heads of exits: Xu et al., ACM MM 2023; METR, ICLR 2024."""

from __future__ import annotations

import numpy as np

from autotok.config import CompressionConfig
from autotok.exits import ExitPolicy
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
    facts: BackboneFacts, config: CompressionConfig, mlp: Counts, kept: Counts
) -> Counts:
    """Nominal patch tokens that leave each block, (M, L), of those in its MLP (M, L) and those that
    each reduction layer keeps (M, S)."""
    method = get_method(config.method)
    if method.span is Span.BLOCK:
        return np.full_like(mlp, facts.num_patches)
    leaving: Counts = mlp.copy()
    if method.placement is Placement.AFTER:
        leaving[:, [r.layer for r in config.reductions]] = kept
    return leaving


def scheduled_rows(facts: BackboneFacts, policy: ExitPolicy, leaving: Counts) -> Counts:
    """(E, M): the most tokens that each head's products run over."""
    rows = []
    for layer, kind in policy.places:
        count = leaving[:, layer]
        if kind.startswith("global"):
            step = int(kind.removeprefix("global-"))
            thinned = -(-facts.grid[0] // step) * -(-facts.grid[1] // step)
            count = np.where(count == facts.num_patches, thinned, count)
        rows.append(count)
    return np.stack(rows)
