"""Paired comparisons: exact where there is an exact answer, honest where there is noise."""

import json
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotok.evaluation.paired import Paired, compare, mcnemar, paired_hits, paired_means

OUTCOMES = st.text(alphabet="01", min_size=1, max_size=80)
KLS = st.lists(st.floats(0.0, 5.0, allow_nan=False), min_size=1, max_size=40)


def outcomes(both: int, gained: int, lost: int, neither: int) -> tuple[str, str]:
    first = "1" * (both + gained) + "0" * (lost + neither)
    second = "1" * both + "0" * gained + "1" * lost + "0" * neither
    return first, second


def test_the_interval_is_newcombes_published_example() -> None:
    """Newcombe 1998, table III, method 10: 36, 12, 2 and 0 of 50 give 0.0569 to 0.3404."""
    found = paired_hits(*outcomes(36, 12, 2, 0))
    assert found.difference == pytest.approx(20.0)
    assert (found.low, found.high) == (
        pytest.approx(5.69, abs=0.02),
        pytest.approx(34.04, abs=0.02),
    )


def test_mcnemar_is_the_binomial_tail_of_a_fair_coin() -> None:
    assert mcnemar(5, 0) == 2 / 32
    assert mcnemar(8, 2) == pytest.approx(2 * (1 + 10 + 45) / 1024)
    assert mcnemar(3, 3) == mcnemar(0, 0) == 1.0


@given(OUTCOMES, OUTCOMES)
def test_exchanging_the_two_turns_the_sign_and_nothing_else(first: str, second: str) -> None:
    one, two = paired_hits(first, second), paired_hits(second, first)
    assert two.difference == -one.difference
    assert (two.low, two.high) == (pytest.approx(-one.high), pytest.approx(-one.low))
    assert (two.p_value, two.num_discordant) == (one.p_value, one.num_discordant)
    turned = {"better": "worse", "worse": "better", "tie": "tie"}
    assert two.verdict == turned[one.verdict] == one.reversed.verdict


@given(KLS, KLS)
def test_exchanging_two_divergences_turns_the_sign(first: list[float], second: list[float]) -> None:
    one, two = paired_means(first, second), paired_means(second, first)
    assert two.difference == pytest.approx(-one.difference)
    assert (two.low, two.high) == (pytest.approx(-one.high), pytest.approx(-one.low))


@given(OUTCOMES)
def test_identical_outcomes_are_a_tie_with_an_interval_of_some_width(same: str) -> None:
    found = paired_hits(same, same)
    assert (found.difference, found.num_discordant, found.p_value) == (0.0, 0, 1.0)
    assert found.verdict == "tie"
    assert found.low < 0.0 < found.high


@given(OUTCOMES, OUTCOMES)
def test_the_interval_holds_the_difference_and_the_verdict_follows_it(a: str, b: str) -> None:
    found = paired_hits(a, b)
    assert -100.0 <= found.low <= found.difference <= found.high <= 100.0
    assert (found.verdict == "tie") == (found.low <= 0.0 <= found.high)
    assert found.num_images == min(len(a), len(b))


def test_only_the_images_both_saw_count() -> None:
    assert paired_hits("1100", "10") == paired_hits("11", "10")
    assert paired_means([0.1, 0.2, 9.0], [0.3, 0.3]).num_images == 2
    with pytest.raises(ValueError, match="no image"):
        paired_hits("", "1")


@settings(max_examples=15)
@given(
    st.integers(0, 10_000), st.sampled_from([(40, 0.2, 0.1), (200, 0.05, 0.05), (500, 0.04, 0.02)])
)
def test_the_interval_covers_the_truth_about_as_often_as_it_says(
    seed: int, case: tuple[int, float, float]
) -> None:
    total, gain, loss = case
    rng, inside, rounds = random.Random(seed), 0, 150
    for _ in range(rounds):
        draws = rng.choices(["11", "10", "01", "00"], [0.6, gain, loss, 0.4 - gain - loss], k=total)
        found = paired_hits("".join(d[0] for d in draws), "".join(d[1] for d in draws))
        inside += found.low <= 100.0 * (gain - loss) <= found.high
    assert inside / rounds > 0.88  # 0.95 but for chance


def test_a_pairing_sees_what_two_separate_intervals_hide() -> None:
    """92 % against 90 % of 500: Wilson's intervals overlap widely, but 10 of 10 changes agree."""
    found = paired_hits(*outcomes(450, 10, 0, 40))
    assert found.verdict == "better"
    assert found.p_value == pytest.approx(2 / 1024)


def test_a_small_lead_within_noise_is_a_tie() -> None:
    found = paired_hits(*outcomes(230, 12, 8, 50))
    assert found.difference > 0
    assert found.verdict == "tie"


def test_less_divergence_is_better_by_the_paired_t_interval() -> None:
    first, second = [0.1, 0.2, 0.3, 0.4], [0.2, 0.4, 0.4, 0.6]
    found = paired_means(first, second)
    saved = [0.1, 0.2, 0.1, 0.2]
    deviation = math.sqrt(sum((x - 0.15) ** 2 for x in saved) / 3)
    assert found.difference == pytest.approx(0.15)
    assert found.high - found.difference == pytest.approx(3.18245 * deviation / 2, rel=1e-4)
    assert found.verdict == "better"
    assert 0.0 < found.p_value < 0.05
    assert paired_means([0.1], [0.5]).verdict == "tie"  # one image says nothing of the spread
    assert paired_means([0.1, 0.1], [0.1, 0.1]).verdict == "tie"


def test_tallies_without_outcomes_or_of_other_metrics_are_not_compared() -> None:
    top1 = {"metric": "top1", "hits": "1101", "kls": ()}
    kl = {"metric": "kl", "hits": "", "kls": [0.1, 0.2, 0.3]}
    assert compare(top1, {"metric": "top1", "hits": "1001"}) is not None
    assert compare(kl, {**kl, "kls": (0.2, 0.1)}) is not None
    for other in (None, kl, {"metric": "top1", "hits": ""}, {"metric": "top1", "hits": 37.5}, {}):
        assert compare(top1, other) is None
    assert compare({"value": 1.0}, {"value": 1.0}) is None
    assert compare(kl, {"metric": "kl", "kls": ()}) is None


def test_a_comparison_survives_json_and_writes_its_sign() -> None:
    found = paired_hits(*outcomes(80, 9, 1, 10))
    back = Paired.from_dict(json.loads(json.dumps(found.to_dict())))
    assert back == found
    assert found.to_dict()["verdict"] == found.verdict
    assert found.text.startswith("+8.0 [+")
    assert Paired("top1", 9, -0.01, -1.0, 1.0, 1.0, 2).text == "+0.0 [-1.0, +1.0]"


def test_a_decided_interval_never_reads_as_if_it_touched_zero() -> None:
    assert Paired("top1", 400, -2.5, -5.1, -0.03, 0.06, 20).text == "-2.50 [-5.10, -0.03]"
