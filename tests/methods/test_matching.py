"""Bipartite matching on tokens small enough to match by hand."""

import torch

from autotok.methods.matching import bipartite, by_similarity, key_direction, unit_rows
from autotok.tokens import Taps


def angles(*degrees: float) -> torch.Tensor:
    """(1, n, 2) unit vectors; the nearer two angles, the more similar."""
    radians = torch.deg2rad(torch.tensor(degrees))
    return torch.stack([radians.cos(), radians.sin()], dim=-1).unsqueeze(0)


def test_rows_are_ranked_by_their_most_similar_column() -> None:
    similarity = torch.tensor([[[0.1, 0.9], [0.95, 0.2], [0.3, 0.4]]])
    order, nearest = by_similarity(similarity)
    assert order.tolist() == [[1, 0, 2]]
    assert nearest.tolist() == [[1, 0, 1]]


def test_with_a_class_token_odd_patches_may_merge_and_the_rest_is_in_order() -> None:
    # patch:           0   1   2    3   4    5     positions are one later: 1, 3, 5 are even
    metric = angles(0.0, 80, 90, 101, 180, 1.0)
    match = bipartite(metric, 1, num_prefix=1)
    assert match.gone.tolist() == [[5]]  # 5 is 1 degree from 0
    assert match.keep.tolist() == [[1, 3, 0, 2, 4]]
    assert match.target.tolist() == [[2]]  # where patch 0 now stands


def test_without_prefix_even_patches_merge_and_the_rest_falls_in_similarity() -> None:
    metric = angles(0.0, 30, 170, 160, 90, 95)  # a: 0 (30 away), 2 (10 away), 4 (5 away)
    match = bipartite(metric, 1, num_prefix=0)
    assert match.gone.tolist() == [[4]]
    assert match.keep.tolist() == [[2, 0, 1, 3, 5]]
    assert match.target.tolist() == [[4]]


def test_two_prefix_tokens_split_as_none_do_but_in_order() -> None:
    metric = angles(0.0, 30, 170, 160, 90, 95)
    match = bipartite(metric, 1, num_prefix=2)
    assert match.keep.tolist() == [[0, 2, 1, 3, 5]]


def test_length_does_not_matter_but_direction_does() -> None:
    metric = angles(0.0, 80, 90, 101, 180, 1.0)
    stretched = metric * torch.arange(1.0, 7).reshape(1, 6, 1)
    first, second = (bipartite(m, 2, num_prefix=1) for m in (metric, stretched))
    assert torch.equal(first.keep, second.keep)
    assert torch.equal(first.target, second.target)


def test_no_gradient_flows_through_the_matching() -> None:
    metric = angles(0.0, 80, 90, 101).requires_grad_()
    assert bipartite(metric, 1, num_prefix=1).keep.requires_grad is False


def test_pairs_say_the_same_by_halves_and_by_positions() -> None:
    torch.manual_seed(0)
    pairs = bipartite(torch.randn(2, 11, 4), 3, num_prefix=1)
    assert pairs.first == 1
    assert pairs.keep.shape == (2, 8)
    for image in range(2):
        together = torch.cat([pairs.keep[image], pairs.gone[image]])
        assert sorted(together.tolist()) == list(range(11))
        assert set((pairs.gone[image] % 2).tolist()) == {1}
        partners = pairs.keep[image][pairs.target[image]]
        assert torch.equal(partners, 2 * pairs.partner[image])


def test_the_direction_of_keys_is_that_of_their_mean() -> None:
    keys = torch.randn(2, 3, 6, 4)
    direction = unit_rows(key_direction(Taps({"keys": keys}), 1))
    torch.testing.assert_close(direction, unit_rows(keys.mean(dim=1)[:, 1:]))
