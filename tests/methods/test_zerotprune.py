"""Zero-TPrune: a walk on the attention graph, and similarity among the less important."""

import torch
from hand import reducer, tokens

from autotok.config import Primitive
from autotok.methods.zerotprune import ZeroTPrune, _importance
from autotok.tokens import Taps

PATCHES = torch.arange(4.0).unsqueeze(1)


def made(keep: int, **options: Primitive) -> ZeroTPrune:
    new = reducer("zerotprune", entering=4, keep=keep, options=options)
    assert isinstance(new, ZeroTPrune)
    return new


def taps(received: list[float], directions: list[list[float]]) -> Taps:
    """All five tokens attend alike: `received` sums to 1 over class token and patches."""
    attention = torch.tensor(received).expand(1, 1, 5, 5)
    keys = torch.tensor([[1.0, 0.0], *directions]).reshape(1, 1, 5, 2)
    return Taps({"attention": attention, "keys": keys})


def test_a_walk_ranks_by_the_attention_that_important_tokens_pay() -> None:
    # token 0 looks at 1, which looks at itself; 2 looks at 0: after a step 1 leads, 2 has nothing
    attention = torch.tensor([[[[0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]]])
    torch.testing.assert_close(_importance(attention, 1), torch.tensor([[1.0, 2.0, 0.0]]))
    torch.testing.assert_close(_importance(attention, 3), torch.tensor([[0.0, 3.0, 0.0]]))


def test_heads_whose_scores_hardly_spread_are_left_out() -> None:
    flat = torch.full((3, 3), 1 / 3)
    sharp = torch.tensor([[0.2, 0.5, 0.3]]).expand(3, 3)
    both = _importance(torch.stack([flat, sharp]).unsqueeze(0), 1)
    torch.testing.assert_close(both, torch.tensor([[0.6, 1.5, 0.9]]))


def test_heads_are_merged_by_root_mean_square_where_none_stands_out() -> None:
    flat = torch.full((1, 2, 3, 3), 1 / 3)
    torch.testing.assert_close(_importance(flat, 4), torch.ones(1, 3))


def test_without_similarity_the_most_important_stay() -> None:
    given = taps([0.1, 0.1, 0.4, 0.15, 0.25], [[1.0, 0.0]] * 4)
    out = made(2, alike_share=0.0).reduce(tokens(PATCHES), given, 2)
    assert out.patches.flatten().tolist() == [1.0, 3.0]


def test_the_less_important_token_that_another_stands_for_goes_first() -> None:
    # candidates 0 and 2, references 1 and 3; 2 points where 3 does, 0 where nobody does
    given = taps([0.1, 0.1, 0.4, 0.15, 0.25], [[-1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    out = made(3, alike_share=1.0).reduce(tokens(PATCHES), given, 3)
    assert sorted(out.patches.flatten().tolist()) == [0.0, 1.0, 3.0]


def test_prefix_tokens_take_part_and_stay() -> None:
    given = taps([0.6, 0.1, 0.1, 0.1, 0.1], [[1.0, 0.0]] * 4)
    out = made(1).reduce(tokens(PATCHES), given, 1)
    assert out.prefix.flatten().tolist() == [-1.0]
