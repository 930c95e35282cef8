"""The two values that methods see."""

import pytest
import torch

from autotok.tokens import Needs, Taps, Tokens, grid_coords, naive_coords


def test_coordinates_run_row_by_row_and_naive_ones_along_one_square() -> None:
    assert grid_coords((2, 3)).tolist() == [[[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]]
    assert naive_coords(4).tolist() == [[[0, 0], [0, 1], [1, 0], [1, 1]]]


def test_tokens_know_their_parts_and_count_one_patch_each_at_first() -> None:
    tokens = Tokens(torch.arange(10.0).reshape(1, 5, 2), num_prefix=1, grid=(2, 2))
    assert tokens.num_patches == 4
    assert tokens.prefix.tolist() == [[[0.0, 1.0]]]
    assert tokens.patches.shape == (1, 4, 2)
    assert tokens.sizes().shape == (1, 4)
    assert tokens.sizes().eq(1).all()
    moved = tokens.with_x(tokens.x + 1)
    assert (moved.num_patches, tokens.x[0, 0, 0].item(), moved.x[0, 0, 0].item()) == (4, 0.0, 1.0)


def test_a_tap_that_was_not_asked_for_is_absent() -> None:
    taps = Taps({"keys": torch.ones(1)})
    assert taps.names() == ("keys",)
    assert taps.having("attention", torch.zeros(1)).attention.item() == 0.0
    with pytest.raises(AttributeError, match="attention"):
        _ = taps.attention
    assert Needs.KEYS in Needs.KEYS | Needs.GRID
