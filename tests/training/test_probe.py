"""Which rates a probe tries, which it takes, and what it may cost."""

import math

import pytest

from autotok.training.probe import CAREFUL, FIRST, RATES, choose, climb, lower, plan_probe


def valley(best: float) -> dict[float, float]:
    """Losses by rate: lowest at one, rising by 1 with each step away from it."""
    middle = RATES.index(best)
    return {rate: 0.1 + abs(index - middle) for index, rate in enumerate(RATES)}


@pytest.mark.parametrize("best", RATES)
def test_the_one_rate_that_helps_is_found(best: float) -> None:
    losses = valley(best)
    if best > FIRST:  # then those between are better than the start, though less so
        losses = {rate: 0.1 * loss for rate, loss in losses.items()}
    found = climb(losses.__getitem__, 1.0, lambda _: True)
    assert choose(found, 1.0)[0] == best


def test_nothing_is_tried_above_a_rate_that_does_harm() -> None:
    found = climb(lambda rate: math.inf if rate > 2e-6 else 0.5, 1.0, lambda _: True)
    assert max(found) == FIRST
    assert choose(found, 1.0)[0] == 1e-6


@pytest.mark.parametrize("most", [1, 2, 3, 5])
def test_no_more_rates_are_tried_than_may_be(most: int) -> None:
    for loss in (0.5, 2.0):
        found = climb(lambda _, loss=loss: loss, 1.0, lambda tried: tried < most)
        assert len(found) <= most


def test_of_rates_that_nearly_gain_the_same_the_highest_is_taken() -> None:
    assert choose({3e-5: 0.105, 1e-5: 0.1, 1e-4: 0.3}, 1.0)[0] == 3e-5
    assert choose({3e-5: 0.25, 1e-5: 0.1}, 1.0)[0] == 1e-5


def test_where_no_rate_helps_the_next_lower_one_is_taken_and_the_reason_says_so() -> None:
    lr, why = choose({3e-5: 2.0, 1e-5: math.inf}, 1.0)
    assert lr == 3e-6
    assert why.startswith("none of 2 rates tried lowered the held-out loss (1)")


def test_where_nothing_gives_numbers_a_rate_is_named_all_the_same() -> None:
    assert choose({3e-5: math.inf, 1e-5: math.inf}, math.inf)[0] == 3e-6


def test_lower_rates_are_a_third_or_so_apart_even_outside_the_list() -> None:
    assert lower(1.0) == 1e-3
    assert lower(3e-5) == CAREFUL
    assert lower(RATES[-1]) == pytest.approx(1e-7)


@pytest.mark.parametrize("steps", [1, 20, 49, 60, 120, 200, 1000, 20_000])
@pytest.mark.parametrize("images", [1, 2, 4, 8, 16, 256])
def test_a_probe_costs_a_fifth_of_the_fine_tune_at_most(steps: int, images: int) -> None:
    plan = plan_probe(steps, images, 32)
    if plan is None:
        assert steps < 120
        return
    by_hand = plan.rates * (plan.steps + plan.images / (3 * images)) + plan.images / (3 * images)
    assert plan.rates >= 2
    assert by_hand <= 0.2 * steps + 1e-9
