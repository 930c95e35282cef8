"""One model trained for several image sizes: what is drawn, who teaches whom, what moves."""

import dataclasses
from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest
import torch
from tiny_student import Noise, same, weights
from torch import Tensor
from torch.nn import functional as F

from autotok.backbones.base import Backbone
from autotok.backbones.lvvit import LVViT, LVViTSpec
from autotok.backbones.size_tables import listed_sides
from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone
from autotok.errors import AutotokError, ConfigError, DataError, Diverged, UnsupportedBackbone
from autotok.methods.losses import self_distillation
from autotok.training.size_sandwich import (
    SizedSubnet,
    SizesSpec,
    subnet_losses,
    train_at_sizes,
)

SHORT = SizesSpec(
    image_sizes=(16, 24), layers=(1, 2), steps=3, batch_size=2, lr=0.1, augment="none"
)
LVVIT = LVViTSpec(24, 4, 2, 48, image_shape=(3, 32, 32), patch_size=8, num_classes=5)
LABELS = torch.tensor([3, 7])


def images() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_a_step_has_each_size_whole_before_it_is_pruned_and_every_pair_comes() -> None:
    drawn = [SHORT.subnets(step) for step in range(200)]
    pairs = set()
    for largest, pruned, smaller, last in drawn:
        assert (largest.side, largest.rate, pruned.side) == (None, 1.0, None)
        assert (smaller.rate, smaller.side) == (1.0, last.side)
        pairs.add((pruned.rate, last.side, last.rate))
    assert pairs == set(product(SHORT.rates, SHORT.image_sizes, SHORT.rates))
    assert drawn[:9] == [SHORT.subnets(step) for step in range(9)]


def test_whole_ones_learn_from_labels_and_pruned_ones_from_the_whole_one_of_their_size() -> None:
    backbone, subnets = tiny_backbone(), SHORT.subnets(0)
    logits, losses = zip(
        *subnet_losses(backbone, subnets, images(), LABELS, layers=SHORT.layers), strict=True
    )
    for whole, pruned in ((0, 1), (2, 3)):
        torch.testing.assert_close(losses[whole], F.cross_entropy(logits[whole], LABELS))
        theirs, own = (logits[i].log_softmax(-1) for i in (whole, pruned))
        torch.testing.assert_close(losses[pruned], (theirs.exp() * (theirs - own)).sum(-1).mean())
    config = subnets[3].config(backbone.facts, SHORT.layers)
    torch.testing.assert_close(logits[3], compress_backbone(backbone, config)(images()))


def test_the_teacher_does_not_learn_from_its_pruned_one() -> None:
    backbone = tiny_backbone()
    pair = (SizedSubnet(None, 1.0), SizedSubnet(16, 0.5))  # sizes share all but the table
    (_, first), (_, second) = subnet_losses(backbone, pair, images(), LABELS, layers=(1,))
    (alone,) = torch.autograd.grad(first, backbone.model.pos_embed, retain_graph=True)
    taught = torch.autograd.grad(second, backbone.model.head.bias)[0]
    assert alone.abs().sum() > 0
    own = compress_backbone(backbone, pair[1].config(backbone.facts, (1,)))(images())
    whole = backbone(images()).softmax(-1).detach()
    torch.testing.assert_close(taught, ((own.softmax(-1) - whole) / 2).sum(0))


def test_a_copy_learns_every_size_it_met_and_the_same_again_from_the_same_seed() -> None:
    backbone, told = tiny_backbone(), list[int]()
    before = weights(backbone)
    trained = train_at_sizes(backbone, Noise(), SHORT, on_step=lambda step, loss: told.append(step))
    assert told == [0, 1, 2]
    assert same(weights(backbone), before)
    assert listed_sides(trained.weights.state_dict()) == [16, 24]
    assert not trained.training
    met = {subnet.side for step in range(SHORT.steps) for subnet in SHORT.subnets(step)} - {None}
    for side in (16, 24):
        start = tiny_backbone().at_size(side).position_table()
        assert torch.equal(_table(trained, side), start) == (side not in met)
    again = train_at_sizes(tiny_backbone(), Noise(), SHORT)
    assert same(weights(again), weights(trained))


def _table(backbone: Backbone, side: int) -> Tensor:
    return backbone.weights.get_parameter(f"pos_embed_by_size.{side}")[0, 1:]


def test_the_gradients_of_a_step_are_clipped_together() -> None:
    tight = dataclasses.replace(SHORT, clip_norm=1e-9, steps=1, weight_decay=0.0)
    free = dataclasses.replace(tight, clip_norm=0.0)
    moved = [
        (train_at_sizes(tiny_backbone(), Noise(), spec).weights.state_dict()["head.bias"]
         - tiny_backbone().model.head.bias).abs().max()
        for spec in (tight, free)
    ]  # fmt: skip
    assert moved[0] < moved[1]


def test_the_rate_rises_and_falls_by_a_cosine_and_is_the_batchs_share() -> None:
    spec = SizesSpec(steps=600, batch_size=256, lr=4e-4, warmup=0.1, final_lr=0.0)
    rates = [spec.rate_at(step) for step in range(600)]
    assert max(rates) == pytest.approx(2e-4, rel=1e-3)
    assert rates.index(max(rates)) in (59, 60)
    assert rates[29] == pytest.approx(1e-4, rel=0.02)
    assert rates[330] == pytest.approx(1e-4, rel=0.02)
    assert rates[-1] < 1e-7


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 0}, "steps must be above 0, got 0"),
        ({"lr": -1.0}, r"lr must be above 0, got -1\.0"),
        ({"rates": ()}, "rates is empty; give at least one"),
        ({"image_sizes": []}, "image_sizes is empty"),
        ({"rates": (0.5, 1.0)}, r"rates must lie between 0 and 1, got 1\.0"),
        ({"augment": "crop-flop"}, "crop-flop.*crop-flip"),
        ({"seed": -1}, "seed is -1; give a whole number from 0 to 4294967295"),
    ],
)
def test_what_cannot_be_is_said(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(AutotokError, match=words):
        SizesSpec(**changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layers": (3, 6)}, r"layer 6 cannot reduce: backbone 'tiny' has 4 blocks \(0-3\)"),
        ({"image_sizes": (20,)}, "image_size 20 does not divide"),
    ],
)
def test_sizes_and_layers_that_the_backbone_lacks_are_said(
    changes: dict[str, Sequence[int]], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        train_at_sizes(tiny_backbone(), Noise(), dataclasses.replace(SHORT, **changes))


def test_what_cannot_be_trained_is_said_by_name() -> None:
    with pytest.raises(DataError, match="data 'noise' has no training images"):
        train_at_sizes(tiny_backbone(), Noise(0), SHORT)
    with pytest.raises(DataError, match="data 'noise' has no labels"):
        train_at_sizes(tiny_backbone(), Noise(labelled=False), SHORT)
    headless = tiny_backbone()
    headless.facts = dataclasses.replace(headless.facts, num_classes=0)
    with pytest.raises(ConfigError, match="backbone 'tiny' has no classifier"):
        train_at_sizes(headless, Noise(), SHORT)
    with pytest.raises(UnsupportedBackbone, match="cannot hold position tables"):
        train_at_sizes(LVViT(LVVIT), Noise(), SHORT)
    wild = dataclasses.replace(SHORT, lr=1e30, steps=9)
    with pytest.raises(Diverged, match=r"diverged at step \d; try a lower lr than 1e\+30"):
        train_at_sizes(tiny_backbone(), Noise(), wild)


def test_a_finite_loss_whose_gradient_is_no_number_is_not_learned_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def steep(logits: Tensor, taught: Tensor) -> Tensor:
        found = self_distillation(logits, taught)
        found.register_hook(lambda gradient: gradient * torch.nan)
        return found

    monkeypatch.setattr("autotok.training.size_sandwich.self_distillation", steep)
    with pytest.raises(Diverged, match="diverged at step 0"):
        train_at_sizes(tiny_backbone(), Noise(), dataclasses.replace(SHORT, steps=1))
