import numpy as np
import pytest
import torch
from hand import attended, reducer, tokens

from autotok.errors import IncompatibleMethod
from autotok.methods import get_method
from autotok.testing import synthetic_facts

PATCHES = torch.tensor([[10.0], [20], [30], [40]])
SCORES = [0.1, 0.2, 0.4, 0.05, 0.25]


def test_the_rest_becomes_one_token_weighted_by_attention() -> None:
    method = reducer("evit", entering=4, keep=3)
    out = method.reduce(tokens(PATCHES), attended("cls_attention", SCORES), 3)
    fused = 0.2 * 10 + 0.05 * 30
    torch.testing.assert_close(out.x[0, :, 0], torch.tensor([-1.0, 20, 40, fused]))
    assert out.size is None


def test_without_fusion_it_keeps_the_best() -> None:
    method = reducer("evit", entering=4, keep=3, options={"fuse": False})
    out = method.reduce(tokens(PATCHES), attended("cls_attention", SCORES), 3)
    assert out.x[0, :, 0].tolist() == [-1, 20, 40, 10]


def test_gradient_flows_through_the_attention_weights() -> None:
    scores = torch.tensor([[SCORES]], requires_grad=True)
    method = reducer("evit", entering=4, keep=3)
    taps = attended("cls_attention", SCORES)
    taps.cls_attention = scores
    method.reduce(tokens(PATCHES), taps, 3).x[0, -1].sum().backward()
    assert scores.grad is not None
    assert scores.grad[0, 0].tolist() == [0, 10, 0, 30, 0]


def test_fusion_needs_two_tokens_and_costs_one_row_product() -> None:
    method, facts = get_method("evit"), synthetic_facts(1)
    fuse, drop = (method.resolve_options({"fuse": flag}) for flag in (True, False))
    assert method.feasible(10, fuse) == (2, 10)
    assert method.feasible(10, drop) == (1, 10)
    assert method.feasible(1, fuse) == (1, 1)
    entering, keep = np.array([10, 20]), np.array([5, 5])
    width = facts.blocks[0].width
    assert method.overhead_macs(facts, 0, entering, keep, fuse).tolist() == [10 * width, 20 * width]
    assert method.overhead_macs(facts, 0, entering, keep, drop).tolist() == [0, 0]


def test_class_attention_without_a_class_token_is_refused() -> None:
    method = get_method("evit")
    with pytest.raises(IncompatibleMethod, match="needs a class token"):
        method.resolve_needs(synthetic_facts(0), method.resolve_options({"score": "cls"}))


def test_the_keep_rate_of_training_falls_from_one_by_a_cosine() -> None:
    method = reducer("evit", entering=100, keep=50, options={"fuse": False, "shrink": 0.55})
    taps, start = attended("cls_attention", [0.0] * 101), tokens(torch.zeros(100, 1))

    def count(progress: float) -> int:
        method.begin_step(progress)
        return method.reduce(start, taps, 50).num_patches

    assert count(0.1) == 50  # evaluation has the final rate throughout
    method.train()
    assert count(0.0) == 100
    assert count(0.04) == 100
    assert count(0.05 + 0.25) == 75
    assert count(0.55) == 50
    assert count(1.0) == 50


def test_a_fine_tune_keeps_the_final_rate() -> None:
    method = reducer("evit", entering=4, keep=3).train()
    method.begin_step(0.0)
    out = method.reduce(tokens(PATCHES), attended("cls_attention", SCORES), 3)
    assert out.num_patches == 3
