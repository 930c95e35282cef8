"""Budgets: parsed generously, echoed exactly, refused in one sentence."""

import pytest

from autotok.errors import ConfigError, UnknownName
from autotok.searching.space.budget import parse_budget, parse_budgets, resolve

KNOWN = {"macs": 4.6e9, "macs_noattn": 4.25e9, "params": 22e6}


@pytest.mark.parametrize(
    ("text", "metric", "amount"),
    [
        ("2.3GFLOPs", "macs", 2.3e9),
        ("2.3 gmacs", "macs", 2.3e9),
        ("2300M", "macs", 2.3e9),
        ("2.3G", "macs", 2.3e9),
        ("2,300,000,000", "macs", 2.3e9),
        ("2300 mflops", "macs", 2.3e9),
        ("26ms", "latency_ms", 26.0),
        ("0.026 s", "latency_ms", 26.0),
        ("900us", "latency_ms", 0.9),
        ("50fps", "latency_ms", 20.0),
        ("600MB", "peak_memory_mb", 600.0),
        ("0.6GB", "peak_memory_mb", 600.0),
        ("0.5 GiB", "peak_memory_mb", 536.870912),
        ("12Mparams", "params", 12e6),
        ("12 M parameters", "params", 12e6),
    ],
)
def test_units_are_parsed_generously(text: str, metric: str, amount: float) -> None:
    request = parse_budget(text)
    assert (request.metric, request.relative) == (metric, False)
    assert request.amount == pytest.approx(amount)


@pytest.mark.parametrize(
    ("text", "metric"),
    [
        ("50%", "macs"),
        ("50 %", "macs"),
        ("50%latency", "latency_ms"),
        ("50% of memory", "peak_memory_mb"),
        ("50%params", "params"),
    ],
)
def test_a_share_is_of_the_uncompressed_value(text: str, metric: str) -> None:
    request = parse_budget(text)
    assert (request.metric, request.amount, request.relative) == (metric, 0.5, True)


def test_the_echo_says_the_convention_exactly() -> None:
    echo = resolve(parse_budget("2.3GFLOPs"), KNOWN).echo
    assert echo == ("2.3 GFLOPs = 2,300,000,000 multiply-accumulates per image, attention included")
    assert resolve(parse_budget("50%"), KNOWN).echo.startswith("50% = 2,300,000,000 multiply")


def test_conventions_change_what_flops_mean_but_not_macs() -> None:
    assert parse_budget("4.6GFLOPs", convention="flops2x").amount == pytest.approx(2.3e9)
    assert parse_budget("2.3GMACs", convention="flops2x").amount == pytest.approx(2.3e9)
    assert parse_budget("2.3GFLOPs", convention="macs-noattn").metric == "macs_noattn"


def test_several_budgets_come_in_one_string_or_many() -> None:
    expected = ["macs", "latency_ms", "peak_memory_mb"]
    assert [r.metric for r in parse_budgets("2.3GFLOPs, 26ms,600MB")] == expected
    assert [r.metric for r in parse_budgets(["2.3GFLOPs", "26ms", "600MB"])] == expected
    assert [r.metric for r in parse_budgets("2,300,000,000 and 50%latency")] == expected[:2]


def test_an_unknown_unit_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown unit 'GFLOBs'; did you mean 'GFLOPs'\?"):
        parse_budget("2.3GFLOBs")
    with pytest.raises(ConfigError, match="unknown unit 'parsecs'"):
        parse_budget("2 parsecs")


@pytest.mark.parametrize("text", ["26", "0.5", "600 ", "999,999", "1e-3", "50%latency, 26"])
def test_a_number_that_needs_a_unit_is_refused_without_one(text: str) -> None:
    with pytest.raises(ConfigError, match=r"has no unit; give it one, as in 2\.3GFLOPs, 50%, 26ms"):
        parse_budgets(text)


@pytest.mark.parametrize("text", ["0GFLOPs", "-1ms", "0%"])
def test_nothing_and_less_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="must be positive"):
        parse_budget(text)


@pytest.mark.parametrize("text", ["GFLOPs", "", "fast"])
def test_a_budget_without_a_number_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="does not start with a number"):
        parse_budget(text)


def test_two_limits_on_one_metric_are_refused() -> None:
    with pytest.raises(ConfigError, match="limit macs twice"):
        parse_budgets(["2.3GFLOPs", "50%"])


def test_no_budget_at_all_is_refused() -> None:
    with pytest.raises(ConfigError, match="no budget was given"):
        parse_budgets([])


def test_an_unknown_convention_is_refused() -> None:
    with pytest.raises(UnknownName, match="did you mean 'macs-noattn'"):
        parse_budget("1G", convention="macs-noatn")


def test_a_share_of_what_is_not_known_asks_for_a_target() -> None:
    with pytest.raises(ConfigError, match="give --target"):
        resolve(parse_budget("50%latency"), KNOWN)


def test_more_than_all_is_refused() -> None:
    with pytest.raises(ConfigError, match="at most 100%"):
        resolve(parse_budget("150%"), KNOWN)


@pytest.mark.parametrize("text", ["2,3GFLOPs", "2,3", "50%, 2,35GFLOPs"])
def test_a_decimal_comma_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match="comma in its number; write a point"):
        parse_budgets(text)


@pytest.mark.parametrize("text", ["GFLOPs/s", "2.3GFLOPs/s", "2 GMACs / s"])
def test_a_speed_is_no_cost(text: str) -> None:
    with pytest.raises(ConfigError, match="is a speed"):
        parse_budgets(text)
