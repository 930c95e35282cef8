"""Is one configuration better than another, or is that noise? Both judged the same images.

Most images are right, or wrong, under both; only those on which the two differ say anything, so a
paired comparison sees differences that two separate intervals hide. One rule decides everywhere:
the verdict is a tie exactly when the 95 % interval of the difference contains zero.

Shares (top-1, agreement) get Newcombe's square-and-add interval (method 10 of "Improved confidence
intervals for the difference between binomial proportions based on paired data", 1998), which holds
at small numbers and does not shrink to a point where no image differs. McNemar's exact p-value
stands beside it as a second, more cautious opinion. Means of values per image (KL divergences,
cosines) get the paired t interval.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autotok.metrics import METRICS
from autotok.names import known
from autotok.plain_data import Kept

from .intervals import Interval, wilson

# differences that are all the same spread by rounding alone, which no t-test may divide by
_ROUNDING = 1e-12
_MOST_DIGITS = 6


@dataclass(frozen=True)
class Paired(Kept):
    """How much better the first is than the second, over the same images."""

    metric: str
    """What was judged; see the table of metrics."""
    num_images: int
    difference: float
    """In the metric's unit (KL divergence saved): positive where the first is better."""
    low: float
    high: float
    """The 95 % interval of `difference`."""
    p_value: float
    """McNemar's, exact, or the paired t test's; two-sided."""
    num_discordant: int
    """Images on which the two differ."""

    def __post_init__(self) -> None:
        known("metric", self.metric, METRICS)

    @property
    def verdict(self) -> str:
        """'better', 'worse' or 'tie' (the interval contains zero)."""
        if self.low > 0.0:
            return "better"
        return "worse" if self.high < 0.0 else "tie"

    @property
    def reversed(self) -> Paired:
        """The second against the first."""
        return dataclasses.replace(
            self, difference=-self.difference, low=-self.high, high=-self.low
        )

    @property
    def text(self) -> str:
        """'+1.2 [-0.4, +2.8]': points, or KL divergence saved.

        As many digits as it takes to show on which side of zero a decided interval lies.
        """
        digits, values = METRICS[self.metric].digits, (self.difference, self.low, self.high)
        if self.verdict != "tie":
            while digits < _MOST_DIGITS and any(round(x, digits) == 0.0 for x in values):
                digits += 1
        value, low, high = (f"{_unsigned_zero(x, digits):+.{digits}f}" for x in values)
        return f"{value} [{low}, {high}]"

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the verdict included."""
        return {**dataclasses.asdict(self), "verdict": self.verdict}


def compare(
    first: Mapping[str, Any] | None, second: Mapping[str, Any] | None, *, confidence: float = 0.95
) -> Paired | None:
    """Two tallies (`dataclasses.asdict`) over their common first images; None where they keep no
    outcomes per image, or not of the same metric."""
    if first is None or second is None or first.get("metric") != second.get("metric"):
        return None
    metric = str(first.get("metric"))
    if metric in METRICS and METRICS[metric].mean:
        both = image_values(first), image_values(second)
        if all(isinstance(x, (list, tuple)) and x for x in both):
            return paired_means(*both, metric=metric, confidence=confidence)
        return None
    hits = first.get("hits"), second.get("hits")
    if all(isinstance(x, str) and x for x in hits):
        return paired_hits(*hits, metric=metric, confidence=confidence)  # type: ignore[arg-type]
    return None


def paired_hits(
    first: str, second: str, *, metric: str = "top1", confidence: float = 0.95
) -> Paired:
    """Of '1' (right) and '0' per image; the longer string is cut to the shorter."""
    pairs = list(zip(first, second, strict=False))
    if not pairs:
        raise ValueError("no image was judged by both")
    both = sum(a == b == "1" for a, b in pairs)
    gained = sum(a == "1" != b for a, b in pairs)
    lost = sum(b == "1" != a for a, b in pairs)
    total = len(pairs)
    low, high = _newcombe(both, gained, lost, total, confidence)
    return Paired(
        metric=metric,
        num_images=total,
        difference=100.0 * (gained - lost) / total,
        low=100.0 * low,
        high=100.0 * high,
        p_value=mcnemar(gained, lost),
        num_discordant=gained + lost,
    )


def image_values(tally: Mapping[str, Any]) -> Sequence[float]:
    """The values per image behind a mean, of a tally as plain data."""
    found: Sequence[float] = tally.get("kls" if tally.get("metric") == "kl" else "values") or ()
    return found


def paired_means(
    first: Sequence[float],
    second: Sequence[float],
    *,
    metric: str = "kl",
    confidence: float = 0.95,
) -> Paired:
    """Of values per image; the longer sequence is cut to the shorter."""
    sign = 1.0 if METRICS[metric].higher_is_better else -1.0
    gains = [sign * (float(a) - float(b)) for a, b in zip(first, second, strict=False)]
    if not gains:
        raise ValueError("no image was judged by both")
    total, discordant = len(gains), sum(x != 0.0 for x in gains)
    mean = math.fsum(gains) / total
    low, high, p_value = _student(gains, mean, confidence)
    return Paired(metric, total, mean, low, high, p_value, discordant)


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided exact p-value: how likely a split at least as uneven is under a fair coin."""
    from scipy.special import bdtr

    total, extreme = gained + lost, min(gained, lost)
    return min(1.0, 2.0 * float(bdtr(extreme, total, 0.5))) if total else 1.0


def _newcombe(both: int, gained: int, lost: int, total: int, confidence: float) -> Interval:
    """Interval of the difference of the two shares, within [-1, 1]."""
    neither = total - both - gained - lost
    one, two = both + gained, both + lost
    difference = (gained - lost) / total
    down1, up1 = _spreads(one, total, confidence)
    down2, up2 = _spreads(two, total, confidence)
    phi = _phi(both, gained, lost, neither)
    below = math.sqrt(max(0.0, down1**2 - 2 * phi * down1 * up2 + up2**2))
    above = math.sqrt(max(0.0, up1**2 - 2 * phi * up1 * down2 + down2**2))
    return Interval(max(-1.0, difference - below), min(1.0, difference + above))


def _spreads(successes: int, total: int, confidence: float) -> tuple[float, float]:
    """How far Wilson's interval reaches below and above the share."""
    low, high = wilson(successes, total, confidence=confidence)
    share = successes / total
    return max(0.0, share - low), max(0.0, high - share)


def _phi(both: int, gained: int, lost: int, neither: int) -> float:
    """Correlation of the two outcomes, towards zero by Newcombe's continuity correction."""
    total = both + gained + lost + neither
    margins = (both + gained) * (lost + neither) * (both + lost) * (gained + neither)
    if margins == 0:
        return 0.0
    product = float(both * neither - gained * lost)
    if product > 0:
        product = max(0.0, product - total / 2)
    return product / math.sqrt(margins)


def _student(saved: Sequence[float], mean: float, confidence: float) -> tuple[float, float, float]:
    """(low, high, p-value) of a mean by Student's t; one value alone says nothing."""
    from scipy.special import stdtr, stdtrit

    total = len(saved)
    if total < 2:
        return -math.inf, math.inf, 1.0
    variance = math.fsum((x - mean) ** 2 for x in saved) / (total - 1)
    error = math.sqrt(variance / total)
    if error <= _ROUNDING * max(1.0, abs(mean)):
        return mean, mean, float(mean == 0.0)
    spread = float(stdtrit(total - 1, 0.5 + confidence / 2)) * error
    p_value = 2.0 * float(stdtr(total - 1, -abs(mean) / error))
    return mean - spread, mean + spread, p_value


def _unsigned_zero(value: float, digits: int) -> float:
    """The value, but never the -0.0 that rounding makes of a small negative one."""
    return 0.0 if round(value, digits) == 0.0 else value
