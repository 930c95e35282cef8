import numpy as np
import pytest
import torch
from hand import angles, reducer, tokens
from learned import model, photos
from torch import Tensor

from autotok.methods import get_method
from autotok.methods.dtem import DTEM, soft_pairs
from autotok.testing import synthetic_facts
from autotok.tokens import Taps

PATCHES = torch.tensor([[10.0], [20], [30], [40]])


def dtem(keep: int, **options: bool | int | float | str) -> DTEM:
    """A metric that reads the first two channels as they are."""
    method = reducer("dtem", entering=4, keep=keep, options={"features": 2, **options})
    assert isinstance(method, DTEM)
    with torch.no_grad():
        method.metric.weight.zero_()
        method.metric.weight[:, :2] = torch.eye(2)
        method.metric.bias.zero_()
    return method


def normed(*degrees: float) -> Taps:
    """What attention reads: a prefix token, then directions in the first two channels."""
    looks = torch.zeros(1, 1 + len(degrees), 16)
    looks[0, 1:, :2] = angles(*degrees)
    return Taps({"normed": looks})


def pairs(similarity: Tensor, removed: int, temperature: float = 0.1) -> Tensor:
    return soft_pairs(
        similarity, removed, partners=3, pair_temperature=temperature, choice_temperature=0.1
    )


def test_inference_merges_what_the_metric_finds_similar() -> None:
    out = dtem(3).reduce(tokens(PATCHES), normed(0, 85, 90, 170), 3)
    assert out.x[0, :, 0].tolist() == [-1, 40, 10, 25]
    assert out.sizes().tolist() == [[1, 1, 2]]


def test_the_metric_is_as_wide_as_a_head_unless_said_otherwise() -> None:
    method = get_method("dtem")
    facts = synthetic_facts(1)
    assert reducer("dtem", entering=4, keep=3).metric.weight.shape == (8, 16)  # type: ignore[union-attr]
    options = method.resolve_options({})
    assert method.overhead_params(facts, options) == 17 * 8
    macs = method.overhead_macs(facts, 0, np.array([9]), np.array([5]), options)
    assert macs.tolist() == [9 * 16 * 8 + 4 * 5 * 8]


def test_a_sharp_choice_takes_the_closest_pairs_whole() -> None:
    similarity = torch.tensor([[[0.9, 0.1], [0.2, 0.8], [0.3, 0.4]]])
    shares = pairs(similarity, 2, temperature=0.01)
    torch.testing.assert_close(shares, torch.tensor([[[1.0, 0], [0, 1], [0, 0]]]))


def test_no_token_gives_more_than_itself_and_what_is_given_is_what_was_asked() -> None:
    similarity = torch.rand(2, 7, 6, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for removed in (1, 3, 6):
        shares = pairs(similarity, removed)
        assert float(shares.sum(dim=-1).max()) <= 1 + 1e-6
        assert float(shares.sum(dim=(1, 2)).max()) <= removed + 1e-5
        assert int((shares > 0).sum(dim=-1).max()) <= 3


def test_few_partners_are_enough() -> None:
    assert pairs(torch.tensor([[[0.5]]]), 1).tolist() == [[[1]]]


def test_a_sharp_training_form_is_a_merge_whose_leftover_sinks() -> None:
    method = dtem(3, pair_temperature=0.01).train()
    # in training patches 0 and 2 give, 1 and 3 take
    out = method.reduce(tokens(PATCHES), normed(85, 90, 0, 170), 3)
    assert out.num_patches == 4
    order = out.x[0, 1:, 0].tolist()
    assert order[0] == pytest.approx(15)
    assert sorted(order[1:3]) == [30, 40]
    assert order[3] == 10
    torch.testing.assert_close(out.sizes().detach(), torch.tensor([[2.0, 1, 1, 0]]))


def test_sizes_add_up_in_training_too() -> None:
    made = model("dtem", (0, 12), (1, 9), (2, 7)).train()
    out = made.forward_tokens(photos(made))
    assert out.num_patches == 16
    torch.testing.assert_close(out.sizes().sum(dim=1).detach(), torch.full((3,), 16.0).double())


def test_the_loss_reaches_every_metric_but_that_behind_the_last_attention() -> None:
    made = model("dtem", (0, 12), (1, 9), (3, 6)).train()
    made(photos(made)).square().sum().backward()
    sums = []
    for site in made.reducers.values():
        gradient = site.metric.weight.grad  # type: ignore[union-attr]
        sums.append(0.0 if gradient is None else float(gradient.abs().sum()))  # type: ignore[operator,union-attr]
    assert sums[0] > 0
    assert sums[1] > 0
    assert sums[2] == 0


def test_the_metric_does_not_disturb_what_it_reads() -> None:
    method = dtem(3).train()
    looks = normed(85, 90, 0, 170).normed.requires_grad_()
    out = method.reduce(tokens(PATCHES), Taps({"normed": looks}), 3)
    (out.x.sum() + out.sizes().square().sum()).backward()  # type: ignore[no-untyped-call]
    assert looks.grad is None
    assert method.metric.weight.grad is not None


def test_authors_names_lead_to_the_metric() -> None:
    assert DTEM.official_name("blocks.3.attn.metric.bias") == (3, "metric.bias")
    assert DTEM.official_name("blocks.3.attn.qkv.bias") is None
