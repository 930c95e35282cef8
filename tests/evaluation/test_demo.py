"""Cluttered digits: one image per index, disjoint sources, a digit where it is said."""

import numpy as np
import pytest
import torch

from autotok.errors import DataError
from autotok.evaluation.demo import CANVAS, MEAN, STD, DemoDigits, _sources


def test_an_image_depends_on_split_seed_and_index_alone() -> None:
    data = DemoDigits("val", 50, seed=3)
    first, label = data[7]
    data[8]
    again, _ = DemoDigits("val", 10, seed=3)[7]
    assert torch.equal(first, again)
    assert first.shape == (1, CANVAS, CANVAS)
    assert label == 7
    assert not torch.equal(first, DemoDigits("val", 10, seed=4)[7][0])
    assert not torch.equal(first, DemoDigits("train", 10, seed=3)[7][0])


def test_labels_are_balanced_and_known_without_drawing() -> None:
    data = DemoDigits("train", 40)
    labels = [data[i][1] for i in range(40)]
    assert labels == [data.label(i) for i in range(40)]
    assert np.bincount(labels).tolist() == [4] * 10


def test_source_digits_of_the_splits_are_disjoint_and_complete() -> None:
    train, val = _sources("train")[0], _sources("val")[0]
    assert (len(train), len(val)) == (1397, 400)
    together = {image.tobytes() for image in train} & {image.tobytes() for image in val}
    assert not together


def test_without_clutter_all_the_ink_is_inside_the_box() -> None:
    data = DemoDigits("val", 20, clutter=0.0)
    for index in range(20):
        image, box = data[index][0][0] * STD + MEAN, data.digit_box(index)
        inside = image[box.top : box.top + box.side, box.left : box.left + box.side]
        assert inside.max() > 0.4
        outside = image.clone()
        outside[box.top : box.top + box.side, box.left : box.left + box.side] = 0
        assert outside.max() < 0.2


def test_clutter_adds_ink_outside_the_box_and_most_of_the_canvas_stays_empty() -> None:
    data = DemoDigits("val", 20)
    for index in range(20):
        canvas, _, box = data.draw(index)
        outside = canvas.copy()
        outside[box.top : box.top + box.side, box.left : box.left + box.side] = 0
        assert outside.max() > 0.3
        assert (canvas > 0.2).mean() < 0.15


def test_the_box_says_which_patches_it_touches() -> None:
    data = DemoDigits("val", 5)
    box = data.digit_box(0)
    patches = box.patches(8)
    assert (patches[0] == [box.top // 8, box.left // 8]).all()
    assert (patches[-1] == [(box.top + box.side - 1) // 8, (box.left + box.side - 1) // 8]).all()
    assert 9 <= len(patches) <= 49


def test_an_unknown_split_is_refused_and_the_end_is_the_end() -> None:
    with pytest.raises(DataError, match="train or val"):
        DemoDigits("test", 5)
    with pytest.raises(IndexError):
        DemoDigits("val", 5)[5]
