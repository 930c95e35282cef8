"""95 % intervals of proportions and means, from sums that can be added up."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple


class Interval(NamedTuple):
    """Lower and upper end."""

    low: float
    high: float


def wilson(successes: int, total: int, *, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion, within [0, 1]; (0, 1) where nothing was tried."""
    if not 0 <= successes <= total:
        raise ValueError(f"{successes} successes of {total} trials cannot be")
    if total == 0:
        return Interval(0.0, 1.0)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / total
    centre = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return Interval(max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale))


def mean_interval(
    total: float, total_squares: float, count: int, *, confidence: float = 0.95
) -> Interval:
    """Normal interval of a mean, from the sum and the sum of squares of `count` values.

    One value alone says nothing about its spread: the interval is then unbounded.
    """
    if count < 2:
        return Interval(-math.inf, math.inf)
    mean = total / count
    variance = max(0.0, (total_squares - count * mean * mean) / (count - 1))
    spread = NormalDist().inv_cdf(0.5 + confidence / 2) * math.sqrt(variance / count)
    return Interval(mean - spread, mean + spread)
