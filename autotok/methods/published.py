"""Published default schedules, rescaled to any depth and patch count: warm starts of a search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from autotok.config import Reduction, round_count

from .knobs import from_counts, from_cumulative_ratios, from_entering_ratios, from_stage_ratios
from .registry import get_method

__all__ = ["PublishedSchedule", "published_schedules"]

TABLE = Path(__file__).with_name("published.yaml")


@dataclass(frozen=True)
class PublishedSchedule:
    """A schedule as published, rescaled; the first of a method is its authors' default."""

    method: str
    reductions: tuple[Reduction, ...]
    source: str


def published_schedules(method: str, num_blocks: int, num_patches: int) -> list[PublishedSchedule]:
    """Schedules published for `method`, rescaled; empty where none is known.

    Layers move with depth (3 of 12 is 6 of 24); per-block amounts keep the share of tokens that has
    gone at the same relative depth. A block too crowded to keep it (less than half of what enters)
    keeps what the method can reach.
    """
    return [
        PublishedSchedule(method, _reductions(entry, num_blocks, num_patches), entry["source"])
        for entry in _table()
        if entry["method"] == method
    ]


@cache
def _table() -> tuple[Mapping[str, Any], ...]:
    return tuple(yaml.safe_load(TABLE.read_text("utf-8")))


def _reductions(
    entry: Mapping[str, Any], num_blocks: int, num_patches: int
) -> tuple[Reduction, ...]:
    cls = get_method(entry["method"])
    stretch = num_blocks / entry["depth"]
    if "removed_per_block" in entry:
        share = entry["removed_per_block"] / entry["patches"] / stretch
        shares = [1.0 - share * (layer + 1) for layer in range(num_blocks)]
        return _reachable(shares, num_patches)
    if "block_ratio" in entry:
        ratio = entry["block_ratio"] ** (1.0 / stretch)
        return from_entering_ratios(dict.fromkeys(range(num_blocks), ratio), num_patches)
    if "stage_ratio" in entry:
        fused = bool(cls.resolve_options({}).get("fuse", False))
        stages = _moved(entry["stage_ratio"], stretch, num_blocks)
        return from_stage_ratios(stages, num_patches, fused=fused)
    ratios = _moved(entry["keep_ratio"], stretch, num_blocks)
    return from_cumulative_ratios(ratios, num_patches, rounding=cls.rounding)


def _moved(ratios: Mapping[int, float], stretch: float, num_blocks: int) -> dict[int, float]:
    """The same ratios at the same relative depth; of layers that coincide the last one stays."""
    return {min(num_blocks - 1, round(layer * stretch)): ratio for layer, ratio in ratios.items()}


def _reachable(shares: list[float], num_patches: int) -> tuple[Reduction, ...]:
    counts, entering = {}, num_patches
    for layer, share in enumerate(shares):
        wanted = round_count(share, num_patches, "round")
        entering = min(entering, max(wanted, entering - entering // 2))
        counts[layer] = entering
    return from_counts(counts, num_patches)
