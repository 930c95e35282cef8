"""Select, merge, fuse, pool, park and recall move every field together."""

import dataclasses

import pytest
import torch

from autotok.methods.matching import Pairs, bipartite
from autotok.methods.primitives import (
    drop_pairs,
    fuse,
    gather_rows,
    merge,
    merge_pairs,
    park,
    pool,
    recall,
    select,
    select_ragged,
)
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


def first_image(start: Tokens) -> Tokens:
    """The first image's tokens, alone."""
    fields = ("x", "size", "coords", "source", "mask")
    rows = {name: getattr(start, name)[:1] for name in fields}
    extras = {k: Extra(e.values[:1], e.token_axes) for k, e in start.extras.items()}
    return dataclasses.replace(start, **rows, extras=extras)


def first_pairs(pairs: Pairs) -> Pairs:
    """The first image's pairs, alone."""
    rows = {name: getattr(pairs, name)[:1] for name in ("stay_even", "gone_even", "partner")}
    return dataclasses.replace(pairs, **rows)


def assert_same(got: torch.Tensor | None, expected: torch.Tensor | None) -> None:
    assert got is not None
    assert expected is not None
    torch.testing.assert_close(got, expected)


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


@pytest.mark.parametrize("num_prefix", [0, 1, 2])
@pytest.mark.parametrize("batch", [1, 2])
def test_merging_and_dropping_pairs_agree_with_merge_and_select(
    num_prefix: int, batch: int
) -> None:
    start, generator = tokens(num_prefix), torch.Generator().manual_seed(0)
    start = start.with_x(start.x.repeat(1, 1, 6))
    pairs = bipartite(torch.randn(2, 6, 4, generator=generator), 2, num_prefix=num_prefix)
    if batch == 1:
        start, pairs = first_image(start), first_pairs(pairs)
    whole = merge(start, keep=pairs.keep, gone=pairs.gone, target=pairs.target)
    bare = dataclasses.replace(start, coords=None, source=None, mask=None, extras={})
    for given in (start, bare):
        merged, dropped = merge_pairs(given, pairs), drop_pairs(given, pairs)
        assert_same(merged.x, whole.x)
        assert_same(merged.size, whole.size)
        assert_same(dropped.x, select(start, pairs.keep).x)
        assert not merged.raster
        assert not dropped.raster
    assert_same(merge_pairs(start, pairs).source, whole.source)
    assert_same(merge_pairs(start, pairs).coords, whole.coords)
    assert_same(drop_pairs(start, pairs).mask, select(start, pairs.keep).mask)


def test_pairs_merge_as_equals_where_sizes_are_not_tracked() -> None:
    start = tokens()
    pairs = bipartite(torch.randn(2, 6, 4), 2, num_prefix=1)
    out = merge_pairs(start, pairs, track_size=False)
    whole = merge(
        start,
        keep=pairs.keep,
        gone=pairs.gone,
        target=pairs.target,
        weights=torch.ones(2, 6),
        track_size=False,
    )
    assert_same(out.x, whole.x)
    assert out.size is None


def test_rows_are_gathered_behind_others_and_every_so_many() -> None:
    values = torch.randn(2, 9, 12)
    index = torch.tensor([[2, 0], [1, 3]])
    for given, at in ((values, index), (values[:1], index[:1]), (values[..., :1], index)):
        expected = torch.stack([v[1 + 2 * i] for v, i in zip(given, at, strict=True)])
        assert torch.equal(gather_rows(given, at, skip=1, step=2), expected)


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


def test_ragged_images_are_padded_behind_their_own_tokens() -> None:
    x = torch.arange(10.0).reshape(2, 5, 1)
    keep = torch.tensor([[True, False, False, True], [True, True, False, True]])
    out = select_ragged(Tokens(x, 1, (1, 4)), keep, nominal=2)
    assert out.live is not None
    assert out.live.tolist() == [[True, True, False], [True, True, True]]
    assert out.x[0, :3, 0].tolist() == [0, 1, 4]
    assert out.x[1, :, 0].tolist() == [5, 6, 7, 9]
    shorter = select_ragged(
        out, torch.tensor([[True, True, True], [False, True, False]]), nominal=2
    )
    assert shorter.live is not None  # padding is never kept again
    assert shorter.live.tolist() == [[True, True], [True, False]]


def test_one_image_is_never_padded_and_may_follow_an_order() -> None:
    tokens = Tokens(torch.arange(5.0).reshape(1, 5, 1), 1, (1, 4))
    keep, order = torch.tensor([[True, False, True, True]]), torch.tensor([[3, 1, 0, 2]])
    out = select_ragged(tokens, keep, nominal=2, order=order)
    assert out.live is None
    assert out.patches[0, :, 0].tolist() == [4, 1, 3]
    assert select_ragged(tokens, torch.zeros(1, 4).bool(), nominal=2).num_patches == 0
    meta = Tokens(tokens.x.to("meta"), 1, (1, 4))
    assert select_ragged(meta, keep.to("meta"), nominal=2).num_patches == 2
