"""Sums over images: what adds up, what must not, and what they come to."""

import pytest

from autotok.errors import DataError
from autotok.evaluation.tally import Tally


def test_an_empty_tally_has_no_quality() -> None:
    with pytest.raises(DataError, match="no image was evaluated"):
        Tally("top1").quality()


def test_tallies_of_different_metrics_do_not_add_up() -> None:
    with pytest.raises(ValueError, match="do not add up"):
        Tally("top1") + Tally("kl")


def test_sums_in_two_formats_do_not_mix() -> None:
    with pytest.raises(ValueError, match=r"bfloat16 and float32"):
        Tally("top1", 1, precision="bfloat16") + Tally("top1", 1)


def test_a_divergence_of_one_image_is_refused_as_it_has_no_interval() -> None:
    one = Tally("kl", num_images=1, num_compared=1, kl_sum=0.3, kl_squares=0.09, kls=(0.3,))
    with pytest.raises(DataError, match="give 2 images or more"):
        one.quality()
    found = (one + one).quality()
    assert (found.value, found.low, found.high) == (0.3, 0.3, 0.3)


def test_images_are_counted_by_the_exit_they_stopped_at() -> None:
    first = Tally("top1", num_images=3, correct=1, exits=(2, 0, 1))
    second = Tally("top1", num_images=1, correct=1, exits=(0, 1, 0))
    both = Tally("top1") + first + second
    assert both.exits == (2, 1, 1)
    assert both.quality().exit_shares == (0.5, 0.25, 0.25)


def test_a_divergence_of_some_of_the_images_is_none() -> None:
    old = Tally("top1", 2, num_labelled=2, correct=1, hits="10")  # as an earlier version kept it
    new = Tally("top1", 1, num_labelled=1, hits="0", num_compared=1, agreeing=1, kl_sum=0.5)
    assert (new.quality().kl, new.quality().agreement_pct) == (0.5, 100.0)
    both = (old + new).quality()
    assert (both.num_images, both.kl, both.agreement_pct) == (3, None, None)
