"""Select, merge, fuse, pool, park and recall move every field together."""

import dataclasses

import pytest
import torch

from autotok.methods.primitives import (
    above_zero,
    directions,
    falling,
    fuse,
    gather_rows,
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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_divisors_are_kept_from_zero_in_every_format(dtype: torch.dtype) -> None:
    nothing = torch.zeros(1, 2, 3, dtype=dtype)
    assert float(torch.zeros((), dtype=dtype).clamp_min(above_zero(1e-12, nothing))) > 0.0
    assert torch.equal(directions(nothing), nothing)
    start = Tokens(torch.ones(1, 4, 2, dtype=dtype), 1, (1, 3), coords=grid_coords((1, 3)))
    out = pool(start, nothing, track_size=True)
    assert out.size is not None
    assert bool(out.x.isfinite().all())
    assert bool(out.size.isfinite().all())


def test_of_equal_ones_the_first_comes_first_and_no_stable_sort_is_written_down() -> None:
    x = torch.tensor([[1.0, 3.0, 3.0, 2.0, 3.0]])
    assert falling(x).tolist() == [[1, 2, 4, 3, 0]]

    class Sorting(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return falling(x)

    graph = torch.export.export(Sorting(), (x,)).graph
    assert not [node for node in graph.nodes if "stable" in str(node.target)]
