"""The expected gain of a candidate against what the same beliefs give when drawn at random."""

import numpy as np
import pytest

from autotok.searching.proposing.expected_gain import Belief, expected_gain
from autotok.searching.records.pareto import hypervolume


def beliefs(means: list[float], deviations: list[float], macs: list[float]) -> list[Belief]:
    """Candidates beside two configurations seen: (0.4, 1.0) and (0.8, 0.2)."""
    quality = Belief(
        np.array(means), np.array(deviations), np.array([1.0, 0.2]), worst=2.0, exact=False
    )
    cost = Belief(np.array(macs), np.zeros(len(macs)), np.array([0.4, 0.8]), worst=1.0, exact=True)
    return [quality, cost]


@pytest.mark.parametrize(
    ("mean", "deviation", "macs"), [(0.5, 0.3, 0.5), (1.5, 0.5, 0.2), (0.1, 0.2, 0.9)]
)
def test_the_gain_is_the_mean_of_hypervolumes_drawn(
    mean: float, deviation: float, macs: float
) -> None:
    rng = np.random.default_rng(0)
    seen, corner = [[0.4, 1.0], [0.8, 0.2]], np.array([1.0, 2.0])
    before = hypervolume(np.array(seen), corner)
    drawn = [
        hypervolume(np.array([*seen, [macs, value]]), corner) - before
        for value in rng.normal(mean, deviation, 4000)
    ]
    gain = expected_gain(beliefs([mean], [deviation], [macs]), rng)[0]
    assert gain == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / np.sqrt(len(drawn)))


def test_with_nothing_seen_what_is_good_and_cheap_is_first() -> None:
    nothing = np.array([])
    quality = Belief(np.array([1.9, 0.3, 0.3]), np.full(3, 0.1), nothing, worst=2.0, exact=False)
    cost = Belief(np.array([0.3, 0.3, 0.9]), np.zeros(3), nothing, worst=1.0, exact=True)
    guess = Belief(np.array([0.3, 0.3, 0.9]), np.zeros(3), nothing, worst=1.0, exact=False)
    rng = np.random.default_rng(0)
    assert int(np.argmax(expected_gain([quality, cost], rng))) == 1
    assert int(np.argmax(expected_gain([quality, cost, guess], rng))) == 1
