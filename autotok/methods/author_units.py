"""The authors' own knobs, converted at the edge: r per layer, ratios of the tokens entering.

They give reductions with integer counts, layer by layer, and leave out layers where nothing goes.
A knob means what its authors' code does with it, limits included; what that cannot reach is
refused by `realise`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from autotok.config import Reduction, round_count
from autotok.errors import ConfigError
from autotok.plain_data import whole


def spread(num_removed: int, inflection: float, num_blocks: int) -> tuple[int, ...]:
    """ToMe's `(r, inflection)` as tokens removed per block: -1 falls to 0, 0 is constant, 1 rises.

    Written as published, `int(lo + step * i)`: (6, -1) over 6 blocks is 12, 9, 7, 4, 2, 0.
    """
    low = int(num_removed * (1 - inflection))
    high = 2 * num_removed - low
    step = (high - low) / (num_blocks - 1) if num_blocks > 1 else 0.0
    return tuple(int(low + step * index) for index in range(num_blocks))


def from_num_removed(
    num_removed: int | Sequence[int] | tuple[int, float],
    num_patches: int,
    *,
    num_blocks: int,
    at_most_half: bool = False,
) -> tuple[Reduction, ...]:
    """Reductions of ToMe's r: an int for every block, a list (padded with 0), or (r, inflection).

    A pair is read as (r, inflection) if its second entry is a float, else as a list. `at_most_half`
    removes no more than half of what enters, as the authors' code does without a word.
    """
    if isinstance(num_removed, str) or not isinstance(num_removed, Sequence):
        removed: Sequence[int] = (whole("r", num_removed),) * num_blocks
    elif len(num_removed) == 2 and isinstance(num_removed[1], float):
        removed = spread(int(num_removed[0]), num_removed[1], num_blocks)
    else:
        removed = [whole("r", r) for r in num_removed]
    if len(removed) > num_blocks:
        raise ConfigError(
            f"r is given for {len(removed)} blocks, but the backbone has {num_blocks}"
        )
    if min(removed, default=0) < 0:
        raise ConfigError(
            f"r is {min(removed)}, and no tokens can be added; give the patch tokens that go in"
            " every layer, 0 or more"
        )
    counts, left = {}, num_patches
    for layer, r in enumerate(removed):
        left -= min(r, left // 2) if at_most_half else r
        if left < 1:
            raise ConfigError(f"r removes every patch token by layer {layer}; give a smaller r")
        counts[layer] = left
    return from_counts(counts, num_patches)


def from_stage_ratios(
    ratios: Mapping[int, float],
    num_patches: int,
    *,
    fused: bool = False,
    num_counted_prefix: int = 0,
) -> tuple[Reduction, ...]:
    """Reductions of EViT's ratio per layer, relative to the tokens entering it, by ceil.

    A number above 1 is a count itself (the authors' `tokens`). With `fused` the token that holds
    the dropped ones is counted too, here and in the next stage. SuperViT's ratio is of all tokens
    entering, `num_counted_prefix` prefix tokens included, and says what stays beside those.
    """
    counts, left = {}, num_patches
    for layer, ratio in sorted(ratios.items()):
        share = round_count(ratio, left + num_counted_prefix, "ceil")
        kept = int(ratio) if ratio > 1.0 else min(share, left)
        if kept < left:
            left = kept + 1 if fused else kept
        counts[layer] = left
    return from_counts(counts, num_patches)


def from_entering_ratios(
    ratios: Mapping[int, float], num_patches: int, *, num_counted_prefix: int = 0
) -> tuple[Reduction, ...]:
    """Reductions of PiToMe's and the public ToFu's ratio: `floor(T - T * ratio)` tokens go.

    T counts the patch tokens entering, and `num_counted_prefix` prefix tokens where the authors
    count those too. The arithmetic is theirs, in floats: counts must agree with their outputs.
    """
    counts, left = {}, num_patches
    for layer, ratio in sorted(ratios.items()):
        total = left + num_counted_prefix
        left -= math.floor(total - total * ratio)
        counts[layer] = left
    return from_counts(counts, num_patches)


def from_counts(
    counts: Mapping[int, int] | Iterable[tuple[int, int]], num_patches: int
) -> tuple[Reduction, ...]:
    """Reductions of patch tokens leaving each layer; layers where nothing goes are left out."""
    reductions, entering = [], num_patches
    for layer, keep in sorted(dict(counts).items()):
        if keep != entering:
            reductions.append(Reduction(layer, num_keep=keep))
        entering = keep
    return tuple(reductions)
