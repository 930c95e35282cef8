"""The authors' own knobs as golden files hold them, beyond those that autotok itself takes.

`from_*` give reductions, `to_*` are their inverses: from what comes back, `from_*` makes the same
reductions again. Ratios that come back are exact shares of counts, so they are written in full.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from autotok.config import Reduction, round_count
from autotok.errors import ConfigError
from autotok.methods.author_units import (
    from_counts,
    from_entering_ratios,
    from_num_removed,
    from_stage_ratios,
    spread,
)

__all__ = [
    "from_counts",
    "from_cumulative_ratios",
    "from_diffrate",
    "from_entering_ratios",
    "from_fused_counts",
    "from_num_removed",
    "from_num_removed_at",
    "from_num_sampled",
    "from_stage_ratios",
    "from_thresholds",
    "gtp_selection",
    "ppt_threshold",
    "ppt_variance",
    "spread",
    "to_counts",
    "to_cumulative_ratios",
    "to_diffrate",
    "to_entering_ratios",
    "to_num_removed",
    "to_num_removed_at",
    "to_stage_ratios",
    "to_thresholds",
]


def from_cumulative_ratios(
    ratios: Mapping[int, float], num_patches: int, *, rounding: str
) -> tuple[Reduction, ...]:
    """Reductions of a ratio per layer relative to the image's initial patch tokens."""
    counts = {
        layer: max(1, round_count(ratio, num_patches, rounding)) for layer, ratio in ratios.items()
    }
    return from_counts(counts, num_patches)


def to_counts(
    reductions: Iterable[Reduction], num_patches: int, *, num_blocks: int
) -> dict[int, int]:
    """Patch tokens leaving every block, also those where nothing goes."""
    at = {r.layer: _count(r) for r in reductions}
    counts, left = {}, num_patches
    for layer in range(num_blocks):
        left = at.get(layer, left)
        counts[layer] = left
    return counts


def to_num_removed(
    reductions: Iterable[Reduction], num_patches: int, *, num_blocks: int
) -> tuple[int, ...]:
    """ToMe's r and GTP's number to propagate, per block."""
    counts = list(to_counts(reductions, num_patches, num_blocks=num_blocks).values())
    return tuple(a - b for a, b in pairwise([num_patches, *counts]))


def to_stage_ratios(
    reductions: Iterable[Reduction], num_patches: int, *, fused: bool = False
) -> dict[int, float]:
    """EViT's ratio per layer, relative to the tokens entering it; with `fused` one is no part."""
    ratios, left = {}, num_patches
    for r in _sorted(reductions):
        ratios[r.layer] = (_count(r) - (1 if fused else 0)) / left
        left = _count(r)
    return ratios


def to_cumulative_ratios(reductions: Iterable[Reduction], num_patches: int) -> dict[int, float]:
    """A ratio per layer relative to the image's initial patch tokens."""
    return {r.layer: _count(r) / num_patches for r in _sorted(reductions)}


def to_entering_ratios(
    reductions: Iterable[Reduction], num_patches: int, *, num_counted_prefix: int = 0
) -> dict[int, float]:
    """PiToMe's and the public ToFu's ratio, half a token off the edge of their float arithmetic."""
    ratios, left = {}, num_patches
    for r in _sorted(reductions):
        total = left + num_counted_prefix
        ratios[r.layer] = (total - (left - _count(r)) - 0.5) / total
        left = _count(r)
    return ratios


# --- PPT and GTP


def from_num_removed_at(
    num_removed: int | Sequence[int], layers: Sequence[int], num_patches: int
) -> tuple[Reduction, ...]:
    """Reductions of PPT's r at the layers it lists, at most half of what enters each.

    An int holds for all of them; a list goes to them in order, as in the authors' code.
    """
    if isinstance(num_removed, int):
        num_removed = (num_removed,) * len(layers)
    if len(num_removed) != len(layers):
        raise ConfigError(f"r is given for {len(num_removed)} layers, but {len(layers)} are listed")
    counts, left = {}, num_patches
    for layer, r in zip(sorted(layers), num_removed, strict=True):
        left -= min(r, left // 2)
        counts[layer] = left
    return from_counts(counts, num_patches)


def from_num_sampled(num_tokens: Mapping[int, float], num_patches: int) -> tuple[Reduction, ...]:
    """Reductions of ATS's K per layer, which counts the class token: the most that can stay.

    As in the authors' code, a K of at most 1 is a ratio of the tokens entering, one below 8 is 8,
    and one above what enters is that.
    """
    counts, left = {}, num_patches
    for layer, tokens in sorted(num_tokens.items()):
        sampled = tokens * (left + 1) if tokens <= 1.0 else tokens
        left = min(left, round(max(8.0, sampled)) - 1)
        counts[layer] = left
    return from_counts(counts, num_patches)


def to_num_removed_at(
    reductions: Iterable[Reduction], num_patches: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """PPT's r per listed layer, and the layers."""
    ordered = _sorted(reductions)
    left = [num_patches, *(_count(r) for r in ordered)]
    return tuple(a - b for a, b in pairwise(left)), tuple(r.layer for r in ordered)


def ppt_threshold(variance: float, num_patches: int) -> float:
    """Our `threshold` of a published one: scores add up to 1, so variances fall with N0 squared.

    Published for 196 patches: 7e-5 off the shelf (2.69 here), 6e-5 when fine-tuning (2.30).
    """
    return variance * num_patches**2


def ppt_variance(threshold: float, num_patches: int) -> float:
    """The authors' threshold on the variance, from ours."""
    return threshold / num_patches**2


def gtp_selection(name: str) -> str:
    """Our `selection` of GTP's, such as MixedAttnMax; sums over heads rank as means do."""
    whose = {"Mixed": "mixed", "CLS": "cls", "IMG": "image", "Diag": "diagonal"}
    over = {"Max": "max", "Mean": "mean", "Sum": "mean"}
    known = {f"{a}Attn{b}": f"{whose[a]}_{over[b]}" for a in whose for b in over}
    known["SumAttnMax"] = "sum_max"
    known |= {"CosSimMax": "cosine_max", "CosSimMean": "cosine_mean", "Random": "random"}
    if name not in known:
        raise ConfigError(
            f"selection '{name}' of GTP is not supported; choose one of: {', '.join(known)}"
        )
    return known[name]


# --- DiffRate


def from_diffrate(
    prune_kept: Sequence[int], merge_kept: Sequence[int], num_patches: int, *, num_prefix: int = 1
) -> tuple[Reduction, ...]:
    """Reductions of DiffRate's compression_rate.json: what stays after pruning and after merging.

    Both lists have one entry per block and count prefix tokens. An entry above what arrives, or a
    merge entry above its prune entry, removes nothing, as in the authors' code.
    """
    if len(prune_kept) != len(merge_kept):
        raise ConfigError(
            f"prune gives counts for {len(prune_kept)} blocks and merge for {len(merge_kept)};"
            " both need one per block"
        )
    reductions, entering = [], num_patches
    for layer, (p, q) in enumerate(zip(prune_kept, merge_kept, strict=True)):
        pruned = max(0, entering - (p - num_prefix))
        keep = min(entering - pruned, q - num_prefix)
        if keep < entering:
            reductions.append(Reduction(layer, num_keep=keep, options={"num_pruned": pruned}))
        entering = keep
    return tuple(reductions)


def to_diffrate(
    reductions: Iterable[Reduction], num_patches: int, *, num_blocks: int, num_prefix: int = 1
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(prune, merge) lists of DiffRate's compression_rate.json; needs `num_pruned` per layer."""
    at = {r.layer: r for r in reductions}
    counts = to_counts(at.values(), num_patches, num_blocks=num_blocks)
    prune, merge, entering = [], [], num_patches
    for layer, keep in counts.items():
        pruned = int(at[layer].options.get("num_pruned", -1)) if layer in at else 0
        if pruned < 0:
            raise ConfigError(
                f"layer {layer} does not say how many tokens it prunes; give option 'num_pruned'"
            )
        prune.append(entering - pruned + num_prefix)
        merge.append(keep + num_prefix)
        entering = keep
    return tuple(prune), tuple(merge)


# --- LTMP


def from_thresholds(merge: Sequence[float], prune: Sequence[float]) -> tuple[Reduction, ...]:
    """Reductions of LTMP's thresholds, one pair per block; counts are the images' own."""
    return tuple(
        Reduction(layer, options={"merge_threshold": float(m), "threshold": float(p)})
        for layer, (m, p) in enumerate(zip(merge, prune, strict=True))
    )


def to_thresholds(
    reductions: Iterable[Reduction], *, num_blocks: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """LTMP's (merge, prune) thresholds per block; 1 and 0, which remove nothing, where none is."""
    at = {r.layer: r.options for r in reductions}
    both = [at.get(layer, {}) for layer in range(num_blocks)]
    merge = tuple(float(options.get("merge_threshold", 1.0)) for options in both)
    return merge, tuple(float(options.get("threshold", 0.0)) for options in both)


def _sorted(reductions: Iterable[Reduction]) -> list[Reduction]:
    return sorted(reductions, key=lambda r: r.layer)


def _count(reduction: Reduction) -> int:
    if reduction.num_keep is None:
        raise ConfigError(
            f"layer {reduction.layer} gives no num_keep, which this conversion needs; counts depend"
            " on the backbone otherwise"
        )
    return reduction.num_keep


def from_fused_counts(kept: Sequence[int], num_patches: int) -> tuple[Reduction, ...]:
    """Reductions of METR's list, for its option `count_schedule`: per block, the tokens kept beside
    the new fused one; a block that keeps all that enter does nothing and is left out."""
    reductions, entering = [], num_patches
    for layer, count in enumerate(kept):
        if count != entering:
            entering = count + 1
            reductions.append(Reduction(layer, num_keep=entering))
    return tuple(reductions)
