"""Members of clusters that are as good but for rounding go by their order, in every runtime."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from autotok.methods.clustering import distances
from autotok.methods.lloyd import filled, textbook_step, to_means

COUNT = 6


def points(seed: int) -> torch.Tensor:
    """(3, 9, 16) float64, far from the origin, so that products lose digits."""
    return torch.randn(3, 9, 16, generator=torch.Generator().manual_seed(seed)).double() + 5.0


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31))
def test_medoids_are_the_same_in_single_and_double_precision(seed: int) -> None:
    found = []
    for x in (points(seed).float(), points(seed)):
        medoids = torch.arange(COUNT).expand(3, -1)
        for _ in range(3):
            medoids = textbook_step(distances(x), None, medoids)
        found.append(medoids)
    assert torch.equal(*found)


@settings(max_examples=25)
@example(seed=8808784)  # an empty cluster takes the farther of a pair that is equally far
@given(seed=st.integers(0, 2**31))
def test_members_nearest_to_means_are_too(seed: int) -> None:
    found = []
    for x in (points(seed).float(), points(seed)):
        means = torch.stack([(x[:, n] + x[:, n + 1]) / 2 for n in range(COUNT)], dim=1)
        found.append(filled(to_means(x, means), COUNT))
    for single, double in zip(*found, strict=True):
        assert torch.equal(single, double)


@pytest.mark.parametrize("swapped", [False, True])
def test_of_a_pair_the_first_is_the_medoid(swapped: bool) -> None:
    x = torch.tensor([0.0, 0.1, 10.0])[None, :, None]
    x = x[:, [1, 0, 2]] if swapped else x
    assert textbook_step(distances(x), None, torch.tensor([[1, 2]])).tolist() == [[0, 2]]


def test_of_tokens_that_are_all_alike_the_first_fill_empty_clusters() -> None:
    x = torch.ones(1, 4, 3)
    assignment, nearest = filled(to_means(x, x[:, :3]), 3)
    assert nearest.tolist() == [[0, 1, 2]]
    assert assignment.tolist() == [[0, 1, 2, 0]]
