"""How many patch tokens each block works on, given what each reduction layer keeps.

The one place where counts per reduction layer become counts per block; many schedules at once.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
"""Patch-token counts of many candidate schedules at once, (M,) or (M, layers)."""


class Placement(enum.Enum):
    """Where a reduction happens, relative to the block of its layer."""

    BEFORE_BLOCKS = "before the blocks"
    BEFORE = "before a block"
    MID = "between attention and MLP"
    AFTER = "after a block"


class Span(enum.Enum):
    """How long a reduction lasts."""

    REST = "for good"
    STAGE = "parked until the next reduction layer"
    BLOCK = "parked for one block"


@dataclass(frozen=True)
class Occupancy:
    """Patch tokens of M schedules with S reduction layers on L blocks."""

    entering: Counts
    """Arriving at each reduction layer, (M, S)."""
    attention: Counts
    """In each block's attention, (M, L)."""
    mlp: Counts
    """In each block's MLP, (M, L)."""
    readout: Counts
    """At the read-out, (M,)."""


def occupancy(
    layers: Sequence[int],
    counts: Counts,
    *,
    num_patches: int,
    num_blocks: int,
    placement: Placement,
    span: Span,
) -> Occupancy:
    """The occupancy that placement and span imply.

    Args:
        layers: Reduction layers in rising order, S of them.
        counts: Patch tokens each of them keeps, (M, S).
        num_patches: Initial patch tokens N0.
        num_blocks: Depth L.
        placement: Where reductions happen.
        span: How long they last; only `Placement.BEFORE` can park.
    """
    counts = np.asarray(counts, dtype=np.int64)
    if counts.ndim != 2 or counts.shape[1] != len(layers):
        raise ValueError(f"counts {counts.shape} are not (M, {len(layers)})")
    initial = np.full((counts.shape[0], 1), num_patches, dtype=np.int64)
    states = np.concatenate([initial, counts], axis=1)  # (M, 1 + S), patch tokens between sites
    depth, sites = np.arange(num_blocks), np.asarray(layers, dtype=np.int64)
    arriving = np.searchsorted(sites, depth, side="left")  # (L,) state before a block's own site
    leaving = np.searchsorted(sites, depth, side="right")
    if span is Span.BLOCK:
        inside = np.where(np.isin(depth, sites), leaving, 0)
        blocks = states[:, inside]
        everything = np.repeat(initial, len(layers), axis=1)
        return Occupancy(everything, blocks, blocks, initial[:, 0])
    before = placement in (Placement.BEFORE, Placement.BEFORE_BLOCKS)
    attention = states[:, leaving if before else arriving]
    mlp = states[:, arriving if placement is Placement.AFTER else leaving]
    entering = states[:, :-1]
    if span is Span.STAGE:
        entering = np.repeat(initial, len(layers), axis=1)
    return Occupancy(entering, attention, mlp, states[:, -1])
