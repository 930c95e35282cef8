"""Intervals against figures worked out elsewhere."""

import math

import numpy as np
import pytest

from autotok.evaluation.intervals import mean_interval, wilson


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    [
        (15, 20, 0.53128, 0.88813),  # statsmodels proportion_confint(method="wilson")
        (0, 10, 0.0, 0.27754),
        (10, 10, 0.72246, 1.0),
    ],
)
def test_wilson_reproduces_known_intervals(
    successes: int, total: int, low: float, high: float
) -> None:
    interval = wilson(successes, total)
    assert interval.low == pytest.approx(low, abs=2e-5)
    assert interval.high == pytest.approx(high, abs=2e-5)


def test_wilson_covers_the_true_share_about_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).binomial(80, 0.9, size=2000)
    covered = [wilson(int(k), 80).low <= 0.9 <= wilson(int(k), 80).high for k in draws]
    assert 0.92 < np.mean(covered) < 0.98


def test_more_successes_than_trials_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be"):
        wilson(3, 2)


def test_the_mean_interval_follows_from_the_sums() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0])
    interval = mean_interval(values.sum(), (values**2).sum(), 4)
    spread = 1.959964 * values.std(ddof=1) / 2
    assert interval.low == pytest.approx(2.5 - spread)
    assert interval.high == pytest.approx(2.5 + spread)


def test_one_value_alone_has_an_unbounded_interval() -> None:
    assert mean_interval(3.0, 9.0, 1) == (-math.inf, math.inf)
