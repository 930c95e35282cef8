"""Distances, and tokens far apart."""

import torch
from hand import tokens

from autotok.methods.clustering import distances, farthest_points, left_over


def test_distances_are_exact_for_tokens_with_a_large_common_part() -> None:
    x = torch.randn(2, 40, 8, generator=torch.Generator().manual_seed(0)) + 1000.0
    wide = x.double()
    expected = (wide[:, :, None] - wide[:, None]).norm(dim=-1)
    torch.testing.assert_close(distances(x).double(), expected, atol=1e-3, rtol=0)
    assert distances(x).diagonal(dim1=1, dim2=2).abs().max() == 0


def test_spreading_never_takes_a_token_twice_and_the_rest_is_everyone_else() -> None:
    distance = distances(tokens(torch.tensor([[0.0], [0], [0], [3], [9]])).patches)
    near = farthest_points(distance, 5, first=0)
    assert sorted(near[0].tolist()) == [0, 1, 2, 3, 4]
    assert near[0, :3].tolist() == [0, 4, 3]
    assert farthest_points(distance, 3, first=3, reach="farthest")[0].tolist() == [3, 4, 0]
    assert left_over(torch.tensor([[3, 0]]), 5).tolist() == [[1, 2, 4]]
