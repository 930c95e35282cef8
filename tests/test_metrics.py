"""The table of metrics: every spelling means one thing, and what is suggested can be asked for."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotok.errors import ConfigError, UnknownName
from autotok.metrics import EXACT, METRICS, ON_DEVICE, TABLE, Metric, check_quality, metric_of
from autotok.searching.space.budget import parse_budget, resolve

BUDGETED = [m for m in TABLE if m.limit]
SPELLED = [(m, unit, factor) for m in TABLE for unit, factor in m.spellings.items()]
AMOUNTS = st.floats(1e-3, 1e6).map(lambda value: float(f"{value:.6g}"))


@given(st.sampled_from(SPELLED), AMOUNTS, st.sampled_from(["", " "]), st.booleans())
def test_every_spelling_of_a_unit_is_a_budget_on_its_metric(
    spelled: tuple[Metric, str, float], amount: float, gap: str, upper: bool
) -> None:
    metric, unit, factor = spelled
    text = f"{amount:f}".rstrip("0").rstrip(".") or "0"
    if float(text) == 0.0:
        return
    found = parse_budget(f"{text}{gap}{unit.upper() if upper and unit.isascii() else unit}")
    assert (found.metric, found.relative) == (metric.name, False)
    assert found.amount == pytest.approx(float(text) * factor)


@given(st.sampled_from(BUDGETED), AMOUNTS)
def test_a_suggested_budget_is_one_that_the_value_meets(metric: Metric, amount: float) -> None:
    value = amount * metric.scale
    convention = "macs-noattn" if metric.name == "macs_noattn" else "macs"
    request = parse_budget(metric.nearest_budget(value), convention=convention)
    assert request.metric == metric.name
    assert resolve(request, {}).holds(value)
    assert request.amount == pytest.approx(value, rel=2e-3)


@given(st.sampled_from(TABLE), st.data())
def test_every_name_column_and_word_is_the_metric(metric: Metric, data: st.DataObject) -> None:
    word = data.draw(st.sampled_from([metric.name, metric.column, *metric.words]))
    assert metric_of(data.draw(st.sampled_from([word, word.upper(), f" {word}"]))) is metric


@given(st.sampled_from(BUDGETED), AMOUNTS, AMOUNTS)
def test_a_limit_holds_where_nothing_is_in_excess(
    metric: Metric, value: float, limit: float
) -> None:
    beyond = value < limit if metric.higher_is_better else value > limit
    assert metric.holds(value, limit) is not beyond
    assert (metric.excess(value, limit) > 0.0) is beyond


def test_no_word_stands_for_two_metrics_and_no_unit_either() -> None:
    words = [w for m in TABLE for w in {m.name, m.column, *m.words}]
    units = [u for m in TABLE for u in m.spellings]
    assert len(set(words)) == len(words)
    assert len(set(units)) == len(units)
    assert all(word == word.lower() for word in [*words, *units])


def test_every_metric_that_is_not_judged_can_be_a_budget() -> None:
    assert {m.name for m in BUDGETED} == {*EXACT, *ON_DEVICE}
    assert all(m.shown for m in BUDGETED)
    assert {m.name for m in TABLE if m.kind == "judged"} == METRICS.keys() - {*EXACT, *ON_DEVICE}


def test_an_unknown_metric_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="metric 'latencies' is unknown; did you mean 'latency'"):
        metric_of("latencies")


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("latency_ms", 12.346, "12.35 ms"),
        ("latency_ms", 0.012346, "0.0123 ms"),
        ("throughput_img_s", 1500.0, "1500.0 img/s"),
        ("peak_memory_mb", 310.04, "310.0 MB"),
        ("macs", 2.3, "2.300 G multiply-accumulates"),
        ("top1", 91.25, "91.2 %"),
        ("kl", 0.00051, "0.0005"),
        ("energy_mj", math.nan, "-"),
    ],
)
def test_a_value_is_written_with_its_unit(name: str, value: float, text: str) -> None:
    assert METRICS[name].text(value) == text


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("kl", "less KL divergence"),
        ("feature", "points"),
        ("own", "more own quality"),
        ("own_loss", "less own loss"),
    ],
)
def test_a_gain_is_said_in_the_direction_that_is_better(name: str, unit: str) -> None:
    assert METRICS[name].gain_unit == unit


def test_an_evaluator_and_a_quality_fit_each_other() -> None:
    assert check_quality("auto", "a:b") == "own"
    assert check_quality("own_loss", "a:b") == "own_loss"
    assert check_quality("auto") == "auto"
    with pytest.raises(ConfigError, match="quality 'own_loss' is what an evaluator of yours says"):
        check_quality("own_loss")
    with pytest.raises(ConfigError, match="quality 'kl' is not what evaluator 'a:b' gives"):
        check_quality("kl", "a:b")
