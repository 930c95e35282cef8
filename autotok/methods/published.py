"""Published default schedules, rescaled to any depth and patch count: warm starts of a search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from autotok.config import Reduction, round_count
from autotok.documents import read_yaml

from .author_units import from_entering_ratios, from_stage_ratios
from .base import Span, TokenReducer
from .registry import get_method

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
    gone at the same relative depth. A layer too crowded to keep it keeps what the method can reach.
    """
    return [
        PublishedSchedule(method, rescaled(entry, num_blocks, num_patches), entry["source"])
        for entry in _table()
        if entry["method"] == method
    ]


@cache
def _table() -> tuple[Mapping[str, Any], ...]:
    return tuple(read_yaml(TABLE)[0])


def default_entry(method: str) -> Mapping[str, Any] | None:
    """The default schedule as the table beside this file has it; None where none is known."""
    return next((entry for entry in _table() if entry["method"] == method), None)


def rescaled(entry: Mapping[str, Any], num_blocks: int, num_patches: int) -> tuple[Reduction, ...]:
    """Reductions of an entry as the table has them, on a model of another depth and patch count."""
    cls = get_method(entry["method"])
    wanted = _wanted(entry, cls, num_blocks, num_patches)
    options = cls.resolve_options({})
    merged = _merged_share(entry, num_blocks)
    reductions, entering = [], num_patches
    for layer, count in sorted(wanted.items()):
        low, high = cls.feasible(entering, options)
        keep = min(max(count, low), high)
        if keep == entering and cls.span is Span.REST:
            continue
        gone = entering - keep
        own = {"num_pruned": gone - round(gone * merged[layer])} if merged else {}
        reductions.append(Reduction(layer, num_keep=keep, options=own))
        entering = keep if cls.span is Span.REST else num_patches
    return tuple(reductions)


def _wanted(
    entry: Mapping[str, Any], cls: type[TokenReducer], num_blocks: int, num_patches: int
) -> dict[int, int]:
    """Patch tokens that should leave each layer, in reach of the method or not."""
    stretch = num_blocks / entry["depth"]
    if "removed_per_block" in entry:
        begin, end = entry.get("blocks", (0, entry["depth"]))
        first = round(begin * stretch)
        last = round(end * stretch) if end > 0 else num_blocks + end
        share = entry["removed_per_block"] / entry["patches"] / stretch
        whole = 1.0 - entry.get("first_removes_more", 0) / entry["patches"]
        return {
            layer: round_count(max(0.0, whole - share * (layer - first + 1)), num_patches, "round")
            for layer in range(first, max(last, first + 1))
        }
    if "removed_at" in entry:
        gone = np.cumsum(list(entry["removed_at"].values())) / entry["patches"]
        ratios = dict(zip(entry["removed_at"], (1.0 - gone).tolist(), strict=True))
        moved = _moved(ratios, stretch, num_blocks)
        return {layer: round_count(ratio, num_patches, "round") for layer, ratio in moved.items()}
    if "merge" in entry:
        kept = _spread_out([min(p, m) - 1 for p, m in _pairs(entry)], num_blocks)
        shares = kept / entry["patches"]
        return {
            layer: round_count(share, num_patches, "round") for layer, share in enumerate(shares)
        }
    if "block_ratio" in entry:
        ratio = entry["block_ratio"] ** (1.0 / stretch)
        found = from_entering_ratios(dict.fromkeys(range(num_blocks), ratio), num_patches)
    elif "stage_ratio" in entry:
        fused = bool(cls.resolve_options({}).get("fuse", False))
        stages = _moved(entry["stage_ratio"], stretch, num_blocks)
        found = from_stage_ratios(stages, num_patches, fused=fused)
    else:
        ratios = _moved(entry["keep_ratio"], stretch, num_blocks)
        if cls.span is Span.BLOCK:  # what nobody chooses anew for comes back whole
            for layer in range(min(ratios), num_blocks):
                ratios.setdefault(layer, ratios.get(layer - 1, 1.0))
        return {
            layer: max(1, round_count(ratio, num_patches, cls.rounding))
            for layer, ratio in ratios.items()
        }
    return {reduction.layer: reduction.num_keep or 1 for reduction in found}


def _pairs(entry: Mapping[str, Any]) -> list[tuple[int, int]]:
    return list(zip(entry["prune"], entry["merge"], strict=True))


def _merged_share(entry: Mapping[str, Any], num_blocks: int) -> list[float]:
    """Per block, the share of what goes that merges; empty where nothing says."""
    if "merge" not in entry:
        return []
    kept = [entry["patches"] + 1, *(min(pair) for pair in _pairs(entry))]
    gone = [before - after for before, after in pairwise(kept)]
    merged = [max(0, p - m) for p, m in _pairs(entry)]
    shares = [part / whole if whole else 0.0 for part, whole in zip(merged, gone, strict=True)]
    deep = [min(len(shares) - 1, i * len(shares) // num_blocks) for i in range(num_blocks)]
    return [shares[index] for index in deep]


def _spread_out(kept: list[int], num_blocks: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """What leaves each of `num_blocks`, from a list for another depth: the same curve."""
    depth = len(kept)
    own = np.arange(1, depth + 1) / depth
    return np.interp(np.arange(1, num_blocks + 1) / num_blocks, own, np.asarray(kept, np.float64))


def _moved(ratios: Mapping[int, float], stretch: float, num_blocks: int) -> dict[int, float]:
    """The same ratios at the same relative depth; of layers that coincide the last one stays."""
    return {min(num_blocks - 1, round(layer * stretch)): ratio for layer, ratio in ratios.items()}
