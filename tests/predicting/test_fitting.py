"""Fitting terms to synthetic timings whose terms are known, and choosing what to measure."""

import numpy as np
import pytest

from autotok.predicting.fitting import FIXED, NAMES, check, fit_terms, informative, row_of
from autotok.predicting.regressors import FEATURES

FEW = ("linear.macs", "norm.elements", "pointwise.bytes", "gather.calls")


def made_up(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Amounts of four regressors, the times they take, and the true terms."""
    rng = np.random.default_rng(seed)
    true = {FIXED: 300.0, "linear.macs": 8e-6, "norm.elements": 6e-4}
    true |= {"pointwise.bytes": 5e-5, "gather.calls": 12.0}
    scale = {"linear.macs": 2e9, "norm.elements": 4e6, "pointwise.bytes": 5e7, "gather.calls": 200}
    rows = np.stack(
        [row_of({k: rng.uniform(0.2, 1) * scale[k] for k in FEW}) for _ in range(count)]
    )
    return rows, rows @ np.array([true.get(name, 0.0) for name in NAMES]), true


def test_terms_that_were_measured_are_found_again() -> None:
    rows, times, true = made_up(60, seed=0)
    found = dict(zip(NAMES, fit_terms(rows, times), strict=True))
    for name in FEW[:3]:
        assert found[name] == pytest.approx(true[name], rel=0.05), name
    fresh, expected, _ = made_up(40, seed=1)
    assert check(fresh @ fit_terms(rows, times), expected).worst_pct < 1.0


def test_no_term_is_negative_and_none_is_lost() -> None:
    rows, times, _ = made_up(12, seed=2)
    found = fit_terms(rows, times)
    assert found.shape == (1 + len(FEATURES),)
    assert (found >= 0).all()


def test_one_burst_of_a_neighbour_moves_the_rest_little() -> None:
    rows, times, _ = made_up(40, seed=3)
    disturbed = times.copy()
    disturbed[7] *= 2
    errors = np.abs(rows @ fit_terms(rows, disturbed) / times - 1)
    assert np.median(errors) < 0.02
    assert np.delete(errors, 7).max() < 0.06


def test_a_machine_half_as_fast_gets_terms_twice_as_large() -> None:
    rows, times, _ = made_up(40, seed=4)
    np.testing.assert_allclose(fit_terms(rows, 2 * times), 2 * fit_terms(rows, times), rtol=1e-6)


def test_the_check_counts_what_is_within_and_names_the_worst() -> None:
    measured = np.array([100.0, 100.0, 100.0, 100.0])
    found = check(np.array([104.0, 96.0, 91.0, 120.0]), measured + np.array([0, 0, 0, 1e-9]))
    assert (found.count, found.within_5_pct, found.within_10_pct) == (4, 50.0, 75.0)
    assert found.worst_pct == pytest.approx(20.0)


def test_ranks_are_compared_not_values() -> None:
    measured = np.array([1.0, 2.0, 3.0, 4.0])
    assert check(measured**3, measured).rank_correlation == pytest.approx(1.0)
    assert check(-measured, measured).rank_correlation == pytest.approx(-1.0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("predicted", [[1.0, 2.0], [2.0, 2.0, 2.0]])
def test_ranks_of_too_few_or_of_what_is_all_alike_are_none(predicted: list[float]) -> None:
    measured = np.arange(1.0, len(predicted) + 1)
    assert check(np.array(predicted), measured).rank_correlation is None


def test_what_is_measured_next_is_what_differs_from_what_is_known() -> None:
    plain = row_of({"linear.macs": 1e9})
    same, sorts = row_of({"linear.macs": 2e9}), row_of({"linear.macs": 1e9, "sort.calls": 500})
    rows = np.stack([plain, same, sorts, same])
    assert informative(rows, 1, start=[0]) == [2]
    assert sorted(informative(rows, 3, start=[0])) == [1, 2, 3]


def test_no_more_is_chosen_than_there_is() -> None:
    rows = np.stack([row_of({"linear.macs": 1e9 * k}) for k in (1, 2, 3)])
    assert sorted(informative(rows, 10)) == [0, 1, 2]
