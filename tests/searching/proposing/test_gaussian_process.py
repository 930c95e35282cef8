"""The Gaussian process: what it is told it knows, what it is not told it doubts."""

import numpy as np
import pytest

from autotok.searching.proposing.gaussian_process import (
    Covariances,
    Hyper,
    Inputs,
    best_hyper,
    fit,
)

HYPER = Hyper(length=0.3, shared=0.5, kinship=0.3, noise=1e-6)


def inputs(left: list[float], method: list[int] | None = None) -> Inputs:
    """Configurations that keep the same share of tokens at each of four depths."""
    count = len(left)
    numbers = np.array(method or [0] * count)
    return Inputs(
        profile=np.repeat(np.array(left)[:, None], 4, axis=1),
        removed=1.0 - np.array(left),
        method=numbers,
        kind=numbers // 2,
        details=np.zeros((count, 0)),
    )


def test_what_was_observed_without_error_is_predicted_and_sure() -> None:
    values = np.array([1.0, 2.0, 5.0])
    posterior = fit(inputs([0.9, 0.6, 0.2]), values, np.zeros(3), HYPER)
    means, deviations = posterior.at(inputs([0.9, 0.6, 0.2, 0.05]))
    assert means[:3] == pytest.approx(values, abs=1e-3)
    assert deviations[:3].max() < 0.02 * deviations[3]


def test_an_uncertain_observation_counts_less() -> None:
    values, where = np.array([1.0, 1.0, 5.0]), inputs([0.9, 0.5, 0.45])
    sure = fit(where, values, np.zeros(3), HYPER).at(inputs([0.45]))[0][0]
    unsure = fit(where, values, np.array([0.0, 0.0, 4.0]), HYPER).at(inputs([0.45]))[0][0]
    assert unsure < sure


def test_a_method_s_own_observations_matter_most_then_those_of_its_kind() -> None:
    values = np.array([0.0, 10.0])
    posterior = fit(inputs([0.5, 0.5], [0, 2]), values, np.zeros(2), HYPER)
    own, kin, other = posterior.at(inputs([0.5] * 3, [0, 1, 4]))[0]
    assert own == pytest.approx(0.0, abs=0.1)
    assert own < kin < other < 10.0


def test_the_uncompressed_model_is_the_same_under_every_method() -> None:
    posterior = fit(inputs([1.0, 0.5], [0, 0]), np.array([3.0, 8.0]), np.zeros(2), HYPER)
    means, deviations = posterior.at(inputs([1.0, 1.0], [0, 5]))
    assert means == pytest.approx([3.0, 3.0], abs=1e-3)
    assert deviations.max() < 0.05


def test_the_length_over_which_values_change_is_found() -> None:
    rng = np.random.default_rng(0)
    steps = np.linspace(0.0, 1.0, 40)
    where = inputs(steps.tolist())

    def found(length: float) -> float:
        scaled = np.sqrt(5.0) * np.abs(steps[:, None] - steps) / length
        covariance = (1.0 + scaled + scaled**2 / 3.0) * np.exp(-scaled)  # Matern 5/2
        root = np.linalg.cholesky(covariance + 0.003 * np.eye(40))
        draws = [root @ rng.standard_normal(40) for _ in range(9)]
        return float(np.median([best_hyper(where, v, np.zeros(40)).length for v in draws]))

    assert found(0.15) < found(0.6)


def test_covariances_worked_out_once_give_the_same_as_all_at_once() -> None:
    told, others = inputs([0.9, 0.6, 0.2], [0, 1, 2]), inputs([0.8, 0.5, 0.3, 0.1], [0, 0, 1, 3])
    posterior = fit(told, np.array([1.0, 2.0, 5.0]), np.zeros(3), HYPER)
    rows = Covariances(others)
    rows.of(told.take(np.array([0, 1])), ["a", "b"], HYPER)
    grown = posterior.at(others, rows.of(told, ["a", "b", "c"], HYPER))
    anew = posterior.at(others, Covariances(others).of(told, ["a", "b", "c"], HYPER))
    for one, two, three in zip(grown, anew, posterior.at(others), strict=True):
        assert one.tolist() == two.tolist()
        assert one == pytest.approx(three, rel=1e-9)


def test_of_no_candidate_at_all_nothing_is_known() -> None:
    nobody, seen = inputs([]), inputs([0.9, 0.6])
    known = Covariances(nobody).of(seen, ["a", "b"], HYPER)
    assert known.shape == (2, 0)
    means, deviations = fit(seen, np.ones(2), np.zeros(2), HYPER).at(nobody, known)
    assert len(means) == len(deviations) == 0
