"""Dominance, fronts and hypervolume on points small enough to check by hand."""

import numpy as np
import pytest

from autotok.searching.records.pareto import (
    crowding,
    dominates,
    front_mask,
    hypervolume,
    ranks,
    thin,
)

STAIRS = np.array([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0], [3.0, 3.0]])


def test_a_point_dominates_only_if_it_is_better_somewhere() -> None:
    assert dominates(np.array([1.0, 1.0]), np.array([1.0, 2.0]))
    assert not dominates(np.array([1.0, 1.0]), np.array([1.0, 1.0]))
    assert not dominates(np.array([0.0, 2.0]), np.array([1.0, 1.0]))


def test_the_front_leaves_out_the_dominated_corner() -> None:
    assert front_mask(STAIRS).tolist() == [True, True, True, False]


def test_equal_points_are_both_on_the_front() -> None:
    assert front_mask(np.array([[1.0, 1.0], [1.0, 1.0]])).all()


def test_ranks_peel_fronts_one_by_one() -> None:
    points = np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0], [2.5, 1.5]])
    assert ranks(points).tolist() == [0, 1, 2, 1]


def test_crowding_is_infinite_at_the_ends() -> None:
    distance = crowding(STAIRS[:3])
    assert np.isinf(distance[[0, 2]]).all()
    assert distance[1] == pytest.approx(2.0)


def test_thinning_keeps_the_extremes_and_drops_the_most_crowded() -> None:
    points = np.array([[0.0, 4.0], [0.1, 3.9], [2.0, 2.0], [4.0, 0.0]])
    assert thin(points, 3).tolist() == [0, 2, 3]
    assert thin(points, 9).tolist() == [0, 1, 2, 3]


def test_hypervolume_in_two_dimensions_is_the_area_of_the_stairs() -> None:
    # columns of width 1 under the reference (4, 4): heights 1, 2, 3
    assert hypervolume(STAIRS, np.array([4.0, 4.0])) == pytest.approx(6.0)


def test_points_beyond_the_reference_count_nothing() -> None:
    assert hypervolume(np.array([[5.0, 0.0]]), np.array([4.0, 4.0])) == 0.0


def test_hypervolume_in_three_dimensions_is_a_union_of_boxes() -> None:
    points = np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0]])
    # boxes 2x1x1 and 1x2x1 up to (2, 2, 2), overlapping in 1x1x1
    assert hypervolume(points, np.array([2.0, 2.0, 2.0])) == pytest.approx(3.0)


def test_hypervolume_agrees_with_counting_random_points() -> None:
    rng = np.random.default_rng(0)
    points = rng.random((12, 3))
    samples = rng.random((40_000, 3))
    covered = (samples[:, None] >= points[None]).all(axis=2).any(axis=1).mean()
    assert hypervolume(points, np.ones(3)) == pytest.approx(covered, abs=0.01)
