"""Rows put back to full length, worked by hand."""

import dataclasses

import torch

from autotok.backbones.full_length import at_full_length
from autotok.tokens import Tokens


def tokens(source: list[list[int]], live: list[bool] | None = None) -> Tokens:
    """One image of 1 x 4 patches, one prefix token; each token's row is its number."""
    held = torch.zeros(1, len(source), 4, dtype=torch.bool)
    for token, patches in enumerate(source):
        held[0, token, patches] = True
    x = torch.arange(-1.0, len(source)).reshape(1, -1, 1)
    alive = None if live is None else torch.tensor([live])
    return Tokens(x, 1, (1, 4), raster=False, source=held, live=alive)


def put_back(given: Tokens, fill: str = "zeros") -> list[float]:
    return at_full_length(given.x + 5.0, given, fill=fill).flatten().tolist()


def test_patches_have_the_row_of_their_token_and_prefix_rows_stay_in_front() -> None:
    assert put_back(tokens([[2], [0, 3], [1]])) == [4.0, 6.0, 7.0, 5.0, 6.0]


def test_a_patch_without_a_token_is_zero_or_filled_by_the_first_of_the_nearest() -> None:
    assert put_back(tokens([[1], [3]])) == [4.0, 0.0, 5.0, 0.0, 6.0]
    assert put_back(tokens([[1], [3]]), "nearest") == [4.0, 5.0, 5.0, 5.0, 6.0]


def test_padding_holds_nothing() -> None:
    assert put_back(tokens([[1], [3]], [True, False]), "nearest") == [4.0, 5.0, 5.0, 5.0, 5.0]


def test_an_image_without_tokens_is_zeros_whatever_the_fill() -> None:
    for empty in (tokens([[0]], [False]), tokens([])):
        assert put_back(empty, "nearest")[1:] == [0.0] * 4


def test_tokens_in_raster_order_are_left_as_they_are() -> None:
    whole = dataclasses.replace(tokens([[0], [1], [2], [3]]), raster=True, source=None)
    assert at_full_length(whole.x, whole) is whole.x
