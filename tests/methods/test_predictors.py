import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autotok.methods.predictors import LocalGlobal, keep_one, local_global_macs, threshold_for
from autotok.testing import synthetic_facts


def predictor(width: int = 10) -> LocalGlobal:
    torch.manual_seed(0)
    made = LocalGlobal(width).double()
    for parameter in made.parameters():
        nn.init.normal_(parameter)
    return made


def test_every_token_reads_itself_and_the_mean_of_the_others_half() -> None:
    made, x = predictor(), torch.randn(2, 5, 10, dtype=torch.float64)
    hidden = made.in_conv(x)
    mean = hidden[..., 5:].mean(dim=1, keepdim=True).expand(-1, 5, -1)
    expected = made.out_conv(torch.cat([hidden[..., :5], mean], dim=-1))
    torch.testing.assert_close(made(x), expected)
    torch.testing.assert_close(made(x).exp().sum(-1), torch.ones(2, 5, dtype=torch.float64))


def test_dropped_tokens_do_not_count_in_the_mean() -> None:
    made, x = predictor(), torch.randn(1, 5, 10, dtype=torch.float64)
    mask = torch.tensor([[1.0, 0, 1, 1, 0]])
    torch.testing.assert_close(made(x, mask)[:, [0, 2, 3]], made(x[:, [0, 2, 3]]))


def test_nobody_left_is_finite() -> None:
    made, x = predictor(), torch.randn(1, 5, 10, dtype=torch.float64)
    assert bool(made(x, torch.zeros(1, 5)).isfinite().all())


def test_macs_count_the_shared_half_once_an_image() -> None:
    each = 10 * 10 + 5 * 5 + 5 * 2 + 2 * 2
    assert local_global_macs(np.array([7]), 10).tolist() == [7 * each + 5 * 5]
    assert local_global_macs(np.array([7]), 10, 3).tolist() == [3 * (7 * each + 5 * 5)]


def test_an_image_keeps_its_best_token_unless_the_read_out_can_do_without() -> None:
    mask, scores = torch.tensor([[0.0, 0, 0], [0, 1, 0]]), torch.tensor([[1.0, 3, 2], [9, 0, 0]])
    facts = synthetic_facts(1)
    assert keep_one(mask, scores, facts).tolist() == mask.tolist()
    for other in (synthetic_facts(0), dataclasses.replace(facts, pooling="mean")):
        assert keep_one(mask, scores, other).tolist() == [[0, 1, 0], [0, 1, 0]]


@pytest.mark.parametrize(("mean_count", "kept"), [(0, 0), (1.5, 3), (2, 4), (3, 6)])
def test_a_threshold_keeps_the_mean_count_over_the_batch(mean_count: float, kept: int) -> None:
    scores = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    assert int((scores > threshold_for(scores, None, mean_count)).sum()) == kept


def test_padding_has_no_say_in_a_threshold() -> None:
    scores = torch.tensor([[0.1, 9.0], [0.2, 0.3]])
    live = torch.tensor([[True, False], [True, True]])
    found = threshold_for(scores, live, 0.5)
    assert 0.2 < found < 0.3
    assert F.relu(scores[live] - found).count_nonzero() == 1
