"""Adapters learned between pairs of degrees: what is drawn, what moves, what is written."""

import dataclasses
from itertools import product
from typing import Any

import pytest
import torch
from tiny_student import Noise, same, weights, with_batch_norms
from torch import Tensor
from torch.nn import functional as F

from autotok.backbones.base import Backbone
from autotok.backbones.tiny import tiny_backbone
from autotok.errors import AutotokError, ConfigError, DataError, Diverged, IncompatibleMethod
from autotok.methods.tocom import Adapters
from autotok.training.losses import deit_soft
from autotok.training.pair_distillation import PairSpec, PairStudent, distil_pairs

SHORT = PairSpec(steps=3, batch_size=2, group_width=1, augment="none")


def plain(adapters: Adapters) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in adapters.named()}


def test_degrees_are_drawn_in_pairs_that_differ_and_every_pair_comes() -> None:
    drawn = [SHORT.pair(step) for step in range(4000)]
    assert set(drawn) == {(a, b) for a, b in product(range(17), repeat=2) if a != b}
    assert drawn[:20] == [SHORT.pair(step) for step in range(20)]


def test_the_rate_is_a_cosine_without_warm_up() -> None:
    spec = PairSpec(steps=100)
    assert spec.rate(0) == spec.lr
    assert spec.rate(50) == pytest.approx((spec.lr + spec.final_lr) / 2)
    assert spec.rate(100) == pytest.approx(spec.final_lr)


def test_a_rate_below_the_usual_last_one_does_not_rise() -> None:
    spec = PairSpec(steps=100, lr=1e-6)
    assert [spec.rate(step) for step in (0, 50, 100)] == [1e-6] * 3


def test_the_loss_is_divided_by_images_and_classes() -> None:
    student, teacher = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    own, theirs = student.log_softmax(-1), teacher.log_softmax(-1)
    by_image = F.kl_div(own, theirs, reduction="batchmean", log_target=True)
    torch.testing.assert_close(deit_soft(student, teacher), by_image / 5)


def test_only_adapters_learn_and_the_same_again_from_the_same_seed() -> None:
    backbone, data = tiny_backbone(), Noise(labelled=False)
    before = weights(backbone)
    first = distil_pairs(backbone, data, SHORT)
    assert same(weights(backbone), before)
    assert backbone.added is None
    born = plain(Adapters(backbone.facts, group_width=1, seed=SHORT.seed))
    moved = {name for name, value in plain(first).items() if not torch.equal(value, born[name])}
    assert moved >= {name for name in born if ".adapter_up." in name}
    again = distil_pairs(tiny_backbone(), data, SHORT)
    assert all(torch.equal(value, plain(first)[name]) for name, value in plain(again).items())


def test_running_means_that_the_twin_shares_with_the_original_stay_as_they_are() -> None:
    backbone = with_batch_norms()
    before = weights(backbone)
    distil_pairs(backbone, Noise(labelled=False), dataclasses.replace(SHORT, steps=1))
    assert same(weights(backbone), before)


def test_dropout_is_for_training_only() -> None:
    adapters = Adapters(tiny_backbone().facts, group_width=1)
    for _, weight in adapters.named():
        weight.data.normal_(generator=torch.Generator().manual_seed(0))
    student = PairStudent(tiny_backbone(), adapters, SHORT)
    images, _ = Noise().batch([0, 1])
    student.eval()
    assert torch.equal(student(images, 2, 9), student(images, 2, 9))
    student.train()
    assert not torch.equal(student(images, 2, 9), student(images, 2, 9))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 0}, "steps must be above 0, got 0"),
        ({"scale": -0.1}, "scale must be above 0, got -0.1"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"augment": "crop-flop"}, "crop-flop.*crop-flip"),
        ({"scale": 0.5}, r"'scale' of method 'tocom' is 0\.5, outside \[0\.0, 0\.3\]"),
        ({"group_width": 100}, r"'group_width' of method 'tocom' is 100, outside \[1, 64\]"),
        ({"seed": -1}, "seed is -1; give a whole number from 0 to 4294967295"),
    ],
)
def test_what_cannot_be_is_said(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(AutotokError, match=words):
        PairSpec(**changes)


class WithoutProjections(Backbone):
    def __init__(self) -> None:
        super().__init__()
        self.facts = tiny_backbone().facts


def test_what_cannot_be_trained_is_said_by_name() -> None:
    with pytest.raises(DataError, match="data 'noise' has no training images"):
        distil_pairs(tiny_backbone(), Noise(0), SHORT)
    with pytest.raises(IncompatibleMethod, match=r"backbone 'tiny' \(family timm_vit\) has no"):
        PairStudent(WithoutProjections(), Adapters(tiny_backbone().facts, group_width=1), SHORT)
    headless = tiny_backbone()
    headless.facts = dataclasses.replace(headless.facts, num_classes=0)
    with pytest.raises(ConfigError, match="backbone 'tiny' has no classifier"):
        distil_pairs(headless, Noise(), SHORT)
    wild = dataclasses.replace(SHORT, lr=1e30, steps=9)
    with pytest.raises(Diverged, match=r"diverged at step \d; try a lower lr than 1e\+30"):
        distil_pairs(tiny_backbone(), Noise(), wild)


def test_a_finite_loss_whose_gradient_is_no_number_is_not_learned_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def steep(student: Tensor, teacher: Tensor) -> Tensor:
        found = deit_soft(student, teacher)
        found.register_hook(lambda gradient: gradient * torch.nan)
        return found

    monkeypatch.setattr("autotok.training.pair_distillation.deit_soft", steep)
    with pytest.raises(Diverged, match="diverged at step 0"):
        distil_pairs(tiny_backbone(), Noise(), dataclasses.replace(SHORT, steps=1))
