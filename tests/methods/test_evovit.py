"""Evo-ViT: stages of slow tokens, chosen by all attention so far."""

import dataclasses

import pytest
import torch
from hand import reducer

from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone
from autotok.compression.model import TapRequest
from autotok.config import CompressionConfig, Primitive, Reduction
from autotok.errors import ConfigError
from autotok.methods.evovit import SCORES, EvoViT
from autotok.tokens import Extra, Taps, Tokens, grid_coords


def four() -> Tokens:
    x = torch.arange(-1.0, 4.0).reshape(1, 5, 1)
    return Tokens(x, 1, (2, 2), coords=grid_coords((2, 2)))


def made(*, keep: int = 2, layer: int = 1, **options: Primitive) -> EvoViT:
    new = reducer("evovit", entering=4, keep=keep, layer=layer, options=options)
    assert isinstance(new, EvoViT)
    new.site = dataclasses.replace(
        new.site, facts=dataclasses.replace(new.site.facts, grid=(2, 2)), layers=(layer,)
    )
    return new


def row(*attention: float) -> Taps:
    """Two heads that see the same: the sum is twice that."""
    one = torch.tensor([0.0, *attention])
    return Taps({"cls_attention": torch.stack([one, one]).unsqueeze(0)})


def images() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_attention_counts_alone_before_the_first_stage_and_half_from_there() -> None:
    one = made(layer=2)
    heard = one.observe(0, four(), row(0.1, 0.2, 0.3, 0.4))
    heard = one.observe(1, heard, row(0.4, 0.3, 0.2, 0.1))
    torch.testing.assert_close(heard.extras[SCORES].values, torch.tensor([[0.8, 0.6, 0.4, 0.2]]))
    heard = one.observe(2, heard, row(0.0, 0.1, 0.2, 0.3))
    torch.testing.assert_close(heard.extras[SCORES].values, torch.tensor([[0.4, 0.4, 0.4, 0.4]]))


def test_waiting_tokens_keep_their_score_and_may_come_back() -> None:
    one = made()
    start = one.observe(0, four(), row(0.1, 0.4, 0.2, 0.3))
    slow = one.reduce(start, Taps(), 2)
    assert slow.patches.flatten().tolist() == [1.0, 3.0]
    slow = one.observe(1, slow, row(0.0, 0.0))  # their score halves; the others' stay
    torch.testing.assert_close(slow.extras[SCORES].values, torch.tensor([[0.2, 0.4, 0.4, 0.3]]))
    again = one.reduce(slow, Taps(), 3)
    assert sorted(again.patches.flatten().tolist()) == [1.0, 2.0, 3.0]


def test_all_are_put_back_in_place_before_the_readout() -> None:
    one = made()
    slow = one.reduce(one.observe(0, four(), row(0.1, 0.4, 0.2, 0.3)), Taps(), 2)
    back = one.finish(slow.with_x(slow.x * 10.0))
    assert back.x.flatten().tolist() == [-10.0, 0.0, 10.0, 2.0, 30.0]


def test_the_mean_of_all_patches_may_stand_in_for_the_class_token() -> None:
    one = made(readout="mean")
    slow = one.reduce(one.observe(0, four(), row(0.1, 0.4, 0.2, 0.3)), Taps(), 2)
    assert one.finish(slow).x.flatten().tolist() == [1.5, 0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize(("restore", "patches"), [(True, 16), (False, 4)])
def test_the_last_restore_can_be_left_out(restore: bool, patches: int) -> None:
    reductions = (Reduction(1, num_keep=8), Reduction(3, num_keep=4))
    config = CompressionConfig("evovit", reductions, {"restore": restore})
    model = compress_backbone(tiny_backbone(), config)
    watch = TapRequest(counting=True)
    with torch.no_grad():
        tokens = model.forward_tokens(images(), watch=watch)
    assert tokens.num_patches == model.schedule.readout == patches
    assert model.schedule.attention == (16, 8, 8, 4)
    assert [watch.counts[layer].attention[0].item() for layer in range(4)] == [16, 8, 8, 4]


def test_layer_0_is_refused_because_nothing_was_attended_to_yet() -> None:
    with pytest.raises(ConfigError, match="first layer is 1"):
        compress_backbone(tiny_backbone(), CompressionConfig("evovit", (Reduction(0, 0.5),)))


def test_training_runs_the_same_stages_with_gradients() -> None:
    config = CompressionConfig("evovit", (Reduction(1, num_keep=8),), {"readout": "mean"})
    model = compress_backbone(tiny_backbone(), config)
    logits = model.train()(images())
    logits.sum().backward()
    with torch.no_grad():
        torch.testing.assert_close(logits.detach(), model.eval()(images()))
    assert all(p.grad is not None for p in model.backbone.parameters())
    model.backbone.zero_grad()


def test_scores_of_a_full_grid_follow_raster_positions() -> None:
    one = made()
    start = dataclasses.replace(
        four(), extras={SCORES: Extra(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), ())}
    )
    assert one.reduce(start, Taps(), 1).patches.flatten().tolist() == [3.0]
