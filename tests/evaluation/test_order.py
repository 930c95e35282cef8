"""Subsets: nested, seeded, stratified."""

import numpy as np

from autotok.evaluation.order import nested_order


def test_every_image_comes_exactly_once() -> None:
    assert sorted(nested_order([0, 1, 1, 2, 0, 1], 3)) == list(range(6))
    assert sorted(nested_order(9, 3)) == list(range(9))


def test_every_beginning_holds_each_class_in_proportion() -> None:
    labels = np.repeat([0, 1, 2], [20, 40, 60])
    order = np.array(nested_order(labels.tolist(), 1))
    for count in (6, 12, 30, 66):
        found = np.bincount(labels[order[:count]], minlength=3)
        assert np.abs(found - count * np.array([1, 2, 3]) / 6).max() <= 1.5


def test_the_seed_decides_the_order() -> None:
    labels = [0, 1] * 20
    assert nested_order(labels, 0) == nested_order(labels, 0)
    assert nested_order(labels, 0) != nested_order(labels, 1)
