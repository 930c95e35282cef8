"""What fine-tuning bought, judged on the images that both saw."""

import dataclasses

import pytest
from evidence import IMAGES, record

from autotok.searching.records.finetune_gain import (
    HELPED,
    HURT,
    SUFFICES,
    UNKNOWN,
    tuning_gain,
    tuning_gains,
)

BETTER = "1" * 360 + "0" * 40

WORSE = "1" * 300 + "0" * 100


def test_a_fine_tune_is_judged_on_the_images_that_both_saw() -> None:
    retrained = record(4, "tome", 1.0, BETTER, untuned=WORSE[:350], seconds=120.0)
    gain = tuning_gain(retrained)
    assert gain is not None
    assert gain.gain is not None
    assert gain.gain.num_images == 350
    assert gain.gain.difference == pytest.approx(50 / 350 * 100)
    assert (gain.plugged, gain.tuned) == (pytest.approx(300 / 3.5), 100.0)
    assert gain.per_minute == pytest.approx(50 / 350 * 100 / 2)
    assert gain.verdict == HELPED
    assert gain.base == 3


def test_the_verdict_on_fine_tuning_knows_noise_and_harm() -> None:
    nudged = BETTER.replace("0", "1", 1)
    cases = {SUFFICES: (nudged, BETTER), HURT: (WORSE, BETTER), HELPED: (BETTER, WORSE)}
    for verdict, (after, before) in cases.items():
        gain = tuning_gain(record(4, "tome", 1.0, after, untuned=before))
        assert gain is not None
        assert gain.verdict == verdict
    blind = dataclasses.replace(record(4, "tome", 1.0, BETTER, untuned=WORSE), untuned=None)
    found = tuning_gain(blind)
    assert found is not None
    assert (found.verdict, found.per_minute, found.plugged) == (UNKNOWN, None, None)
    assert tuning_gain(record(4, "tome", 1.0, BETTER)) is None


def test_gains_are_listed_once_cheapest_first_and_the_last_word_counts() -> None:
    early = record(4, "tome", 1.0, BETTER[:64], untuned=WORSE[:64])
    late = record(4, "tome", 1.0, BETTER, untuned=WORSE)
    dear = record(6, "topk", 2.0, BETTER, untuned=WORSE)
    gains = tuning_gains([dear, late, early])
    assert [g.number for g in gains] == [4, 6]
    assert gains[0].gain is not None
    assert gains[0].gain.num_images == IMAGES
