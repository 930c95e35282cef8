import numpy as np
import torch
from hand import angles, keys, reducer, tokens

from autotok.methods import get_method
from autotok.testing import synthetic_facts

PATCHES = torch.tensor([[10.0], [20], [30], [40]])


def test_the_closest_pair_merges_and_sizes_add_up() -> None:
    method = reducer("tome", entering=4, keep=3)
    out = method.reduce(tokens(PATCHES), keys(angles(0, 85, 90, 170)), 3)
    # patches 1 and 3 may merge into 0 and 2; 1 and 2 are 5 degrees apart
    assert out.x[0, :, 0].tolist() == [-1, 40, 10, 25]
    assert out.size is not None
    assert out.size.tolist() == [[1, 1, 2]]


def test_sizes_weigh_the_next_merge() -> None:
    method = reducer("tome", entering=3, keep=2)
    start = method.reduce(tokens(PATCHES), keys(angles(0, 85, 90, 170)), 3)  # 40, 10, 25 x2
    out = method.reduce(start, keys(angles(0, 92, 90)), 2)  # patch 1 (10) goes to 2 (25, size 2)
    torch.testing.assert_close(out.x[0, :, 0], torch.tensor([-1.0, 40, 20]))
    assert out.size is not None
    assert out.size.tolist() == [[1, 3]]


def test_proportional_attention_is_an_option() -> None:
    assert reducer("tome", entering=4, keep=3).proportional_attention
    off = reducer("tome", entering=4, keep=3, options={"proportional": False})
    assert not off.proportional_attention


def test_at_most_half_goes_and_similarities_are_counted() -> None:
    method, facts = get_method("tome"), synthetic_facts(1)
    assert [method.feasible(n, {}) for n in (1, 2, 9, 16)] == [(1, 1), (1, 2), (5, 9), (8, 16)]
    macs = method.overhead_macs(facts, 0, np.array([9, 16]), np.array([5, 8]), {})
    assert macs.tolist() == [4 * 5 * 8, 8 * 8 * 8]  # head_dim 8
