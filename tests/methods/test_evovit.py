"""Evo-ViT: stages of slow tokens, chosen by all attention so far."""

import dataclasses

import pytest
import torch
from hand import reducer

from autotok.backbones.base import Backbone
from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone
from autotok.compression.model import CompressedViT
from autotok.compression.tap_request import TapRequest
from autotok.config import CompressionConfig, Primitive, Reduction
from autotok.counting.counter import count_macs
from autotok.counting.macs import cost
from autotok.errors import ConfigError
from autotok.methods.evovit import SCORES, EvoViT
from autotok.tokens import Extra, Needs, Taps, Tokens, grid_coords


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


def layer_by_layer(backbone: Backbone, image: torch.Tensor, keep: list[int]) -> torch.Tensor:
    """Logits where every block that keeps fewer sorts all patches, runs, and puts them back; the
    weight of a block's own attention is 1 before the first of them, and 1/2 from there."""
    x, first = backbone.embed(image)[0].x, next(i for i, k in enumerate(keep) if k < 16)
    score = torch.zeros(16)
    for layer, count in enumerate(keep):
        order = sorted(range(16), key=lambda patch: -float(score[patch]))[:count]
        rows = [0, *(patch + 1 for patch in order)]
        part = Tokens(x[:, rows], 1, (4, 4))
        branch, taps = backbone.attend(layer, part, Needs.CLS_ATTENTION)
        part = part.with_x(part.x + branch)
        out = part.x + backbone.feed(layer, part)
        weight = 1.0 if layer < first else 0.5
        for place, patch in enumerate(order):
            own = float(taps.cls_attention[0, :, place + 1].sum())
            score[patch] = (1 - weight) * score[patch] + weight * own
        for place, row in enumerate(rows):
            x = x.clone()
            x[:, row] = out[:, place]
    return backbone.readout(Tokens(x, 1, (4, 4)))


def layerwise(share: float, *layers: tuple[int, int]) -> CompressedViT:
    reductions = tuple(Reduction(layer, num_keep=keep) for layer, keep in layers)
    config = CompressionConfig("evovit", reductions, {"layerwise_share": share})
    backbone = tiny_backbone(6)
    with torch.no_grad():
        for block in backbone.model.blocks:  # sharp, so that who leads changes between blocks
            block.attn.qkv.weight.mul_(5.0)
    return compress_backbone(backbone, config)


@torch.no_grad()
def test_layer_wise_training_makes_every_block_a_stage_as_the_sheet_says() -> None:
    model = layerwise(2 / 3, (1, 12), (3, 10)).train()
    for site in model.reducers.values():
        site.begin_step(0.6)
    keep = [16, 12, 12, 10, 10, 10]
    expected = [layer_by_layer(model.backbone, image, keep) for image in images().split(1)]
    torch.testing.assert_close(model(images()), torch.cat(expected), rtol=0, atol=2e-5)
    every = layerwise(0.0, (1, 12), (2, 12), (3, 10), (4, 10), (5, 10)).eval()
    torch.testing.assert_close(model(images()), every(images()), rtol=0, atol=2e-5)


@torch.no_grad()
def test_stages_follow_the_layer_wise_share_and_inference_never_waits() -> None:
    model, plain = layerwise(2 / 3, (1, 12), (3, 10)), layerwise(0.0, (1, 12), (3, 10))
    expected = plain.eval()(images())
    for progress, same in ((0.0, False), (0.66, False), (0.67, True)):
        for site in model.reducers.values():
            site.begin_step(progress)
        trained = model.train()(images())
        assert bool((trained - expected).abs().max() < 1e-5) is same
        torch.testing.assert_close(model.eval()(images()), expected, rtol=0, atol=1e-6)
    assert count_macs(model) == cost(model.backbone.facts, model.config).macs


def test_a_share_is_at_most_all_of_it() -> None:
    with pytest.raises(ConfigError, match=r"'layerwise_share' of method 'evovit' is 1.5"):
        layerwise(1.5, (1, 9))
