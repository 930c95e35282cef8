"""Select, merge, fuse, pool, park and recall move every field together."""

import dataclasses

import torch

from autotok.methods.primitives import fuse, gather_rows, merge, park, pool, recall, select
from autotok.tokens import Extra, Tokens, grid_coords


def tokens(num_prefix: int = 1, *, size: bool = True) -> Tokens:
    """Two images of 2 x 3 patches; patch p of image b is (10 b + p, 1)."""
    number = torch.arange(6.0).repeat(2, 1) + torch.tensor([[0.0], [10.0]])
    patches = torch.stack([number, torch.ones_like(number)], dim=-1)
    prefix = torch.full((2, num_prefix, 2), -1.0)
    return Tokens(
        torch.cat([prefix, patches], dim=1),
        num_prefix,
        (2, 3),
        size=torch.tensor([[1.0, 2.0, 1.0, 1.0, 3.0, 1.0]]).repeat(2, 1) if size else None,
        coords=grid_coords((2, 3)).expand(2, -1, -1),
        source=torch.eye(6, dtype=torch.bool).expand(2, -1, -1),
        mask=torch.arange(6.0).repeat(2, 1),
        extras={
            "number": Extra(number),
            "pair": Extra(number[:, :, None] * 100 + number[:, None], (1, 2)),
        },
    )


INDEX = torch.tensor([[4, 1], [0, 5]])


def test_gather_rows_agrees_with_indexing_on_every_axis() -> None:
    values = torch.arange(2 * 6 * 6).reshape(2, 6, 6)
    rows, columns = gather_rows(values, INDEX), gather_rows(values, INDEX, 2)
    for image in range(2):
        assert torch.equal(rows[image], values[image][INDEX[image]])
        assert torch.equal(columns[image], values[image][:, INDEX[image]])
    assert torch.equal(gather_rows(values[..., 0], INDEX), rows[..., 0])


def test_gather_rows_works_on_one_image_and_on_expanded_values() -> None:
    one = torch.arange(12.0).reshape(1, 6, 2)
    assert torch.equal(gather_rows(one, INDEX[:1])[0], one[0][INDEX[0]])
    assert torch.equal(gather_rows(one.expand(2, -1, -1), INDEX)[1], one[0][INDEX[1]])


def test_select_moves_every_field_in_the_asked_order() -> None:
    out = select(tokens(2), INDEX)
    assert out.x[:, :, 0].tolist() == [[-1, -1, 4, 1], [-1, -1, 10, 15]]
    assert out.size is not None
    assert out.size.tolist() == [[3, 2], [1, 1]]
    assert out.coords is not None
    assert out.coords.tolist() == [[[1, 1], [0, 1]], [[0, 0], [1, 2]]]
    assert out.source is not None
    assert out.source.int().argmax(-1).tolist() == [[4, 1], [0, 5]]
    assert out.mask is not None
    assert out.mask.tolist() == [[4, 1], [0, 5]]
    assert out.extras["number"].values.tolist() == [[4, 1], [10, 15]]
    assert out.extras["pair"].values[0].tolist() == [[404, 401], [104, 101]]
    assert out.raster is False


def test_select_works_without_prefix_tokens() -> None:
    assert select(tokens(0), INDEX).x[:, :, 0].tolist() == [[4, 1], [10, 15]]


def test_merge_is_the_size_weighted_mean_and_adds_sizes_and_sources() -> None:
    keep = torch.tensor([[3, 4]] * 2)
    gone, target = torch.tensor([[1, 5]] * 2), torch.tensor([[1, 1]] * 2)
    out = merge(tokens(), keep=keep, gone=gone, target=target)
    merged = (3 * 4 + 2 * 1 + 1 * 5) / 6
    torch.testing.assert_close(out.x[0, :, 0], torch.tensor([-1, 3, merged]))
    assert out.size is not None
    assert out.size[0].tolist() == [1, 6]
    assert out.source is not None
    assert out.source[0].int().tolist() == [[0, 0, 0, 1, 0, 0], [0, 1, 0, 0, 1, 1]]
    assert out.coords is not None
    assert out.coords[0].tolist() == [[1, 0], [1, 1]]


def test_merge_takes_other_weights_and_may_leave_sizes_alone() -> None:
    keep, gone = torch.tensor([[0]] * 2), torch.tensor([[2]] * 2)
    target = torch.zeros(2, 1, dtype=torch.int64)
    weights = torch.tensor([[1.0, 0, 3.0, 0, 0, 0]] * 2)
    out = merge(
        tokens(size=False), keep=keep, gone=gone, target=target, weights=weights, track_size=False
    )
    torch.testing.assert_close(out.x[0, 1], torch.tensor([1.5, 1.0]))
    assert out.size is None
    counted = merge(tokens(size=False), keep=keep, gone=gone, target=target, weights=weights)
    assert counted.size is not None
    assert counted.size.tolist() == [[2], [2]]


def test_merge_lets_gradients_through_values_and_weights() -> None:
    start = tokens(size=False)
    x = start.x.clone().requires_grad_()
    weights = torch.ones(2, 6, requires_grad=True)
    keep, gone = torch.tensor([[0]] * 2), torch.tensor([[2]] * 2)
    target = torch.zeros(2, 1, dtype=torch.int64)
    out = merge(start.with_x(x), keep=keep, gone=gone, target=target, weights=weights)
    out.x.sum().backward()
    assert x.grad is not None
    assert x.grad[0, :, 0].tolist() == [1, 0.5, 0, 0.5, 0, 0, 0]
    assert weights.grad is not None
    assert weights.grad[0, 0] != 0


def test_fuse_sums_what_is_left_into_the_last_token() -> None:
    weights = torch.tensor([[0.1, 0.5, 0.0, 0.2, 0.9, 0.0]] * 2)
    out = fuse(tokens(), torch.tensor([[4, 1, 3]] * 2), weights)
    torch.testing.assert_close(out.x[0, :, 0], torch.tensor([-1.0, 4, 1, 0.2 * 3]))
    torch.testing.assert_close(out.x[0, -1, 1], torch.tensor(0.3))
    assert out.size is not None
    assert out.size[0].tolist() == [3, 2, 4]
    assert out.source is not None
    assert out.source[0, -1].tolist() == [
        True,
        False,
        True,
        True,
        False,
        True,
    ]
    assert out.coords is not None
    assert out.coords[0, -1].tolist() == [1, 0]


def test_pool_uses_weights_as_given_and_keeps_total_size() -> None:
    weights = torch.tensor([[[1.0, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1]]]).repeat(2, 1, 1)
    out = pool(tokens(), weights, track_size=True)
    assert out.x[0, :, 0].tolist() == [-1, 1, 14]
    assert out.size is not None
    assert out.size[0].tolist() == [3, 6]
    assert out.source is not None
    assert out.source[0].sum(-1).tolist() == [2, 4]
    assert pool(tokens(), weights).size is None


def test_parked_tokens_come_back_to_their_places() -> None:
    start = dataclasses.replace(tokens(), mask=None, extras={})
    rest = torch.tensor([[0, 2, 3, 5], [1, 2, 3, 4]])
    parked = park(start, INDEX, rest)
    assert parked.num_patches == 2
    assert parked.parked[0].x.shape == (2, 4, 2)
    back = recall(parked)
    assert torch.equal(back.x, start.x)
    assert back.raster
    assert back.parked == ()
    assert back.size is not None
    assert start.size is not None
    assert torch.equal(back.size, start.size)
    assert back.source is not None
    assert bool((back.source == start.source).all())
    assert recall(start) is start
