import dataclasses

import torch
from hand import angles, keys, reducer, tokens
from torch import Tensor

from autotok.methods import TokenReducer, get_method
from autotok.testing import reduction_case as reduction_case
from autotok.tokens import Needs, Taps

PATCHES = torch.tensor([[10.0], [20], [30], [40]])
EVEN = [0.6, 0.1, 0.1, 0.1, 0.1]
UNEVEN = [0.1, 0.3, 0.06, 0.5, 0.04]


def taps(row: list[float], lengths: list[float]) -> Taps:
    """One head; patches 1 and 2 (20 and 30) have similar keys."""
    worth = torch.tensor([1.0, *lengths])[None, None, :, None]
    own = keys(angles(0, 85, 90, 170))
    return Taps({"cls_attention": torch.tensor([[row]]), "keys": own.keys, "values": worth})


def reduced(row: list[float], lengths: list[float], keep: int = 3) -> list[float]:
    method = reducer("ppt", entering=4, keep=keep, options={"threshold": 0.5})
    return [float(x) for x in method.reduce(tokens(PATCHES), taps(row, lengths), keep).x[0, :, 0]]


def test_tokens_of_equal_worth_merge_in_tomes_order() -> None:
    assert reduced(EVEN, [1, 1, 1, 1]) == [-1, 40, 10, 25]


def test_tokens_of_unequal_worth_are_pruned_by_falling_score() -> None:
    assert reduced(UNEVEN, [1, 1, 1, 1]) == [-1, 30, 10, 20]


def test_a_long_value_makes_a_token_worth_more() -> None:
    assert reduced(EVEN, [3, 2, 1, 9]) == [-1, 40, 10, 20]


def test_the_variance_is_scaled_by_the_number_of_initial_patches() -> None:
    # worths 0.1, 0.2, 0.3, 0.4: unbiased variance 1/60, times 16 is 0.267
    row = [0.0, 0.1, 0.2, 0.3, 0.4]
    for threshold, pooled in ((0.26, False), (0.27, True)):
        method = reducer("ppt", entering=4, keep=3, options={"threshold": threshold})
        out = method.reduce(tokens(PATCHES), taps(row, [1, 1, 1, 1]), 3)
        assert bool((out.sizes() > 1).any()) is pooled


def test_each_image_of_a_batch_takes_its_own_arm() -> None:
    both = torch.tensor([[EVEN], [UNEVEN]])
    own = taps(EVEN, [1, 1, 1, 1])
    pair = Taps(
        {
            "cls_attention": both,
            "keys": own.keys.expand(2, -1, -1, -1),
            "values": own.values.expand(2, -1, -1, -1),
        }
    )
    start = tokens(PATCHES)
    start = start.with_x(start.x.expand(2, -1, -1))
    method = reducer("ppt", entering=4, keep=3, options={"threshold": 0.5})
    out = method.reduce(start, pair, 3)
    assert out.x[0, 1:, 0].tolist() == [40, 10, 25]
    assert out.x[1, 1:3, 0].tolist() == [30, 10]
    assert out.sizes().tolist() == [[1, 1, 2], [1, 1, 1]]


def test_pruned_tokens_take_their_patches_with_them_and_merged_ones_do_not() -> None:
    for threshold, held in ((1000.0, 15), (0.0, 8)):
        moment = reduction_case(get_method("ppt"), num_keep=8, options={"threshold": threshold})
        out = moment.run()
        assert out.source is not None
        assert out.source.sum(dim=(1, 2)).tolist() == [held] * 3
        assert out.sizes().sum(dim=1).tolist() == [held] * 3


def test_without_proportional_attention_sizes_start_anew() -> None:
    size = torch.tensor([[1.0, 5, 5, 5]])
    found = []
    for proportional in (True, False):
        method = reducer("ppt", entering=4, keep=3, options={"proportional": proportional})
        start = dataclasses.replace(tokens(PATCHES), size=size)
        found.append(method.reduce(start, taps(EVEN, [1, 1, 1, 1]), 3).sizes().tolist())
        assert method.proportional_attention is proportional
    assert found == [[[5, 1, 10]], [[1, 1, 2]]]


def test_at_most_half_goes() -> None:
    method = get_method("ppt")
    assert [method.feasible(n, {}) for n in (1, 2, 9, 16)] == [(1, 1), (1, 2), (5, 9), (8, 16)]


def test_column_means_stand_in_where_asked() -> None:
    method: TokenReducer = reducer(
        "ppt", entering=4, keep=3, options={"score": "column", "threshold": 0.5}
    )
    assert method.needs == Needs.COLUMN_MEANS | Needs.KEYS | Needs.VALUES
    own = taps(UNEVEN, [1, 1, 1, 1])
    means: Tensor = own.cls_attention
    column = Taps({"column_means": means, "keys": own.keys, "values": own.values})
    out = method.reduce(tokens(PATCHES), column, 3)
    assert out.x[0, :, 0].tolist() == [-1, 30, 10, 20]
