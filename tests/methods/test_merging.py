"""Merging by any assignment, and of pairs: means by size, sums of sizes, unions of sources."""

import dataclasses

import pytest
import torch

from autotok.backbones.attention import key_bias
from autotok.backbones.base import pool_mean
from autotok.methods.matching import Pairs, bipartite
from autotok.methods.merging import drop_pairs, merge, merge_ordered, merge_pairs
from autotok.methods.primitives import select
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
    rows = {name: getattr(pairs, name)[:1] for name in ("order", "nearest")}
    return dataclasses.replace(pairs, **rows)


def assert_same(got: torch.Tensor | None, expected: torch.Tensor | None) -> None:
    assert got is not None
    assert expected is not None
    torch.testing.assert_close(got, expected)


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


@pytest.mark.parametrize("pairs", [True, False])
def test_means_of_many_large_values_stay_in_the_range_of_float16(pairs: bool) -> None:
    patches = torch.full((1, 6, 3), 30_000.0).half()
    size = torch.tensor([[20.0, 30.0, 20.0, 30.0, 20.0, 30.0]]).half()
    start = Tokens(torch.cat([patches[:, :1], patches], dim=1), 1, (2, 3), size=size)
    if pairs:
        out = merge_pairs(start, bipartite(torch.rand(1, 6, 2), 3, num_prefix=1))
    else:
        keep, gone = torch.tensor([[0]]), torch.tensor([[1, 2, 3, 4, 5]])
        out = merge(start, keep=keep, gone=gone, target=torch.zeros(1, 5, dtype=torch.int64))
    torch.testing.assert_close(
        out.patches, torch.full_like(out.patches, 30_000.0), rtol=2e-3, atol=0
    )
    mean = pool_mean(start.patches, start)
    torch.testing.assert_close(mean, torch.full_like(mean, 30_000.0), rtol=2e-3, atol=0)


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


@pytest.mark.parametrize("num_prefix", [0, 1, 2])
def test_order_says_the_same_as_kept_and_gone(num_prefix: int) -> None:
    start = tokens(num_prefix)
    keep, gone = torch.tensor([[3, 4, 0]] * 2), torch.tensor([[1, 5]] * 2)
    target = torch.tensor([[0, 0], [1, 0]])
    whole = merge(start, keep=keep, gone=gone, target=target + 1)
    order = torch.cat([keep, gone], dim=1)
    out = merge_ordered(start, order, target, first=1)
    assert_same(out.x, whole.x)
    assert_same(out.size, whole.size)
    assert_same(out.source, whole.source)


def test_tokens_left_out_of_the_order_are_dropped() -> None:
    order, target = torch.tensor([[3, 4, 1]] * 2), torch.tensor([[1]] * 2)
    out = merge_ordered(tokens(), order, target)
    assert out.size is not None
    assert out.size[0].tolist() == [1, 5]


def test_a_merge_leaves_sizes_ready_for_attention_until_they_change() -> None:
    start = tokens()
    out = merge_pairs(start, bipartite(torch.randn(2, 6, 4), 2, num_prefix=1))
    assert out.size is not None
    whole = out.whole_size()
    assert whole is not None
    assert_same(whole[:, 1:], out.size)
    assert whole[:, 0].tolist() == [1, 1]
    assert_same(key_bias(out, torch.float32), whole.log())
    changed = dataclasses.replace(out, size=2 * out.size).whole_size()
    assert_same(changed, torch.cat([torch.ones(2, 1), 2 * out.size], dim=1))
    assert dataclasses.replace(out, size=None).whole_size() is None


def test_merging_in_inference_leaves_nothing_that_training_cannot_use() -> None:
    torch.manual_seed(0)
    start = dataclasses.replace(tokens(), coords=None, mask=None, source=None, extras={})
    pairs = bipartite(torch.randn(2, 6, 4), 2, num_prefix=1)
    with torch.inference_mode():
        expected = merge_pairs(start, pairs).x.clone()
    x = start.x.clone().requires_grad_()
    out = merge_pairs(start.with_x(x), pairs)
    torch.testing.assert_close(out.x, expected)
    out.x.sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
