"""Tables over the grid are read where tokens came from."""

import math

import torch
from torch import Tensor

from autotok.backbones.places import angles_at, bias_between, places_of, turned
from autotok.tokens import Tokens, grid_coords, naive_coords

GRID = (2, 3)


def some(places: list[list[int]], prefix: int = 1) -> Tokens:
    """Tokens that came from these places of the raster."""
    coords = grid_coords(GRID)[0][torch.tensor(places)]
    x = torch.zeros(len(places), prefix + len(places[0]), 4)
    return Tokens(x, prefix, GRID, raster=False, coords=coords)


def by_hand(x: Tensor, angles: list[float]) -> Tensor:
    """Pairs of neighbouring channels as complex numbers, turned."""
    turned = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    turned = turned * torch.polar(torch.ones(len(angles)), torch.tensor(angles))
    return torch.view_as_real(turned).flatten(-2)


def test_a_place_is_a_number_in_the_raster_of_the_grid() -> None:
    found = places_of(some([[5, 0, 2]]))
    assert found is not None
    assert found.tolist() == [[5, 0, 2]]


def test_the_whole_grid_in_its_order_needs_no_looking_up() -> None:
    assert places_of(Tokens(torch.zeros(1, 7, 4), 1, GRID)) is None


def test_naive_positions_below_the_grid_count_as_its_last_place() -> None:
    coords = naive_coords(5)
    found = places_of(Tokens(torch.zeros(1, 6, 4), 1, GRID, raster=False, coords=coords))
    assert found is not None
    assert int(found.max()) == 5


def test_neighbouring_channels_turn_together_and_prefix_tokens_not_at_all() -> None:
    angles = [0.3, -1.2]
    spread = torch.tensor([0.3, 0.3, -1.2, -1.2])
    table = torch.cat([spread.sin(), spread.cos()]).expand(1, -1)
    x = torch.randn(1, 2, 3, 4)
    found = turned(x, table, 2, halves=False)
    assert torch.equal(found[:, :, :2], x[:, :, :2])
    torch.testing.assert_close(found[0, :, 2], by_hand(x[0, :, 2], angles))


def test_halves_turn_together_where_the_model_has_it_so() -> None:
    spread = torch.tensor([0.3, -1.2, 0.3, -1.2])
    table = torch.cat([spread.sin(), spread.cos()]).expand(1, -1)
    x = torch.randn(1, 2, 1, 4)
    order = torch.tensor([0, 2, 1, 3])  # neighbours, as the other layout has them
    expected = by_hand(x[0, :, 0][:, order], [0.3, -1.2])[:, order]
    torch.testing.assert_close(turned(x, table, 0, halves=True)[0, :, 0], expected)


def test_every_image_has_angles_of_its_own_tokens_places() -> None:
    table = torch.arange(6.0).unsqueeze(1).expand(-1, 2)
    found = angles_at(table, some([[5, 0], [1, 2]]))
    assert found[:, 0, :, 0].tolist() == [[5.0, 0.0], [1.0, 2.0]]
    by_head = angles_at(torch.stack([table, -table]), some([[5, 0], [1, 2]]))
    assert by_head[:, 1, :, 0].tolist() == [[-5.0, -0.0], [-1.0, -2.0]]


def test_a_turned_product_hangs_on_the_distance_alone() -> None:
    angles = torch.arange(6.0).unsqueeze(1) * math.pi / 7
    table = torch.cat([angles.sin().expand(-1, 2), angles.cos().expand(-1, 2)], dim=1)
    q, k = torch.randn(2, 1, 1, 1, 2).expand(-1, -1, -1, 6, -1)
    turned_q, turned_k = (turned(x, table, 0, halves=False)[0, 0] for x in (q, k))
    map_ = turned_q @ turned_k.T
    for offset in range(-5, 6):
        line = map_.diagonal(offset)
        torch.testing.assert_close(line, line[:1].expand_as(line))


def test_a_bias_is_that_of_the_two_places_and_prefix_tokens_have_their_own() -> None:
    bias = torch.arange(2 * 7 * 7.0).view(2, 7, 7)
    found = bias_between(bias, some([[5, 0], [1, 2]]))
    assert found.shape == (2, 2, 3, 3)
    rows = torch.tensor([0, 6, 1])
    assert torch.equal(found[0, 1], bias[1][rows][:, rows])
    rows = torch.tensor([0, 2, 3])
    assert torch.equal(found[1, 0], bias[0][rows][:, rows])
    assert torch.equal(bias_between(bias, Tokens(torch.zeros(1, 7, 4), 1, GRID)), bias[None])
