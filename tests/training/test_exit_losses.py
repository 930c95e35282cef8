"""Losses of exits, by hand, and what a fine-tune with them moves."""

import dataclasses
import math

import pytest
import torch
from early import LGVIT, early_model, images
from torch.nn import functional as F

from autotok.backbones.tiny import tiny_backbone
from autotok.compression.tap_request import TapRequest
from autotok.config import CompressionConfig, Reduction
from autotok.errors import ConfigError
from autotok.evaluation.data import load_data
from autotok.exits import ExitPolicy
from autotok.finetune_spec import FineTuneSpec
from autotok.training.distill import default_losses
from autotok.training.exit_losses import (
    check_exit_losses,
    exit_loss,
    exit_weights,
    gram_distance,
    hetero_terms,
    homo_terms,
    stage_one,
)
from autotok.training.finetune import finetune_student
from autotok.training.losses import deit_soft
from autotok.training.student import student_of
from autotok.training.teacher import Teacher


def test_strategies_weigh_exits_alike_or_by_their_depth() -> None:
    assert exit_weights("exits_normal", (1, 3), 6) == ([1 / 3, 1 / 3], 1 / 3)
    assert exit_weights("exits_weighted", (1, 3), 6) == ([2 / 12, 4 / 12], 6 / 12)
    everywhere, last = exit_weights("exits_weighted", (0, 1), 2)
    assert (everywhere, last) == ([1 / 3, 2 / 3], 0.0)
    assert exit_weights("exits_alternating_weighted", (0, 1), 2)[1] == 2 / 5


def test_even_steps_of_an_alternating_strategy_learn_from_the_end_alone() -> None:
    exits, final, labels = [torch.tensor([[0.0, 3.0]])], torch.zeros(1, 2), torch.tensor([0])
    given = {"layers": (0,), "num_blocks": 4}
    even = stage_one("exits_alternating", exits, final, labels, step=2, **given)  # type: ignore[arg-type]
    odd = stage_one("exits_alternating", exits, final, labels, step=3, **given)  # type: ignore[arg-type]
    assert even.item() == pytest.approx(math.log(2))
    assert odd.item() == pytest.approx((math.log(2) + math.log(1 + math.exp(3))) / 2)


def test_answers_are_compared_over_images_and_classes() -> None:
    teacher, student = torch.tensor([[2.0, 0.0]]), torch.zeros(1, 2)
    q = (teacher / 2).softmax(-1)
    by_hand = 4 * (q * (q.log() - math.log(0.5))).sum() / 2
    torch.testing.assert_close(deit_soft(student, teacher, temperature=2.0), by_hand)


def test_gram_matrices_may_be_of_different_numbers_of_tokens() -> None:
    assert gram_distance(torch.ones(1, 4, 2), torch.ones(1, 1, 2)).item() == 9.0


def test_terms_that_need_the_whole_grid_go_behind_a_reduction() -> None:
    features = [torch.randn(2, m, 8) for m in (16, 16, 4, 4)]
    final = torch.randn(2, 16, 8)
    assert len(hetero_terms(LGVIT, features, final, (4, 4))) == 4
    assert hetero_terms(LGVIT, features, final[:, :9], (4, 4)) == []
    reduced = [features[0], features[1][:, :9], *features[2:]]
    assert len(hetero_terms(LGVIT, reduced, final, (4, 4))) == 3
    local, wide = homo_terms(LGVIT, reduced)
    assert (len(local), len(wide)) == (0, 1)


def test_rows_of_exits_with_a_reduction_between_them_stand_for_other_patches() -> None:
    features = [torch.randn(2, m, 8) for m in (9, 9, 4, 4)]  # Evo-ViT takes as many, chosen anew
    for reducing, number in (([2], 1), ([3], 0), ([4], 0), ([5], 1)):
        local, wide = homo_terms(LGVIT, features, (2, 4, 5, 6), reducing)
        assert (len(local), len(wide)) == (number, 1)


def test_with_two_exits_each_is_compared_with_the_end_once() -> None:
    features, final = [torch.randn(2, 16, 8), torch.randn(2, 4, 8)], torch.randn(2, 16, 8)
    assert len(hetero_terms(("local-dw", "global-2"), features, final, (4, 4))) == 2


@pytest.mark.parametrize(
    ("loss", "moved"),
    [("exits_distill", {"exits"}), ("exits_alternating_weighted", {"backbone", "exits"})],
)
def test_a_fine_tune_moves_the_heads_and_in_stage_one_the_model(loss: str, moved: set[str]) -> None:
    backbone = tiny_backbone()
    spec = FineTuneSpec("2 steps", {loss: 1.0}, lr=1e-3, batch_size=4)
    config = CompressionConfig(
        "evit",
        (Reduction(2, num_keep=9),),
        mode="retrain",
        finetune=spec,
        exits=ExitPolicy((1, 2), ("local-dw", "linear")),
    )
    student = student_of(backbone, config)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    data = load_data("digits", backbone, split="train")
    done = finetune_student(student, data, spec, teacher=None)
    assert math.isfinite(done.loss)
    after = student.state_dict()
    if done.kept_step:
        found = {k.split(".")[0] for k, v in after.items() if not torch.equal(v, before[k])}
        assert found == moved
    assert not student.training


def test_exits_are_distilled_unless_told_otherwise() -> None:
    config = CompressionConfig(exits=ExitPolicy((1,)))
    assert default_losses(tiny_backbone().facts, config) == {"exits_distill": 1.0}


def test_a_loss_of_exits_without_exits_is_refused() -> None:
    backbone = tiny_backbone()
    spec = FineTuneSpec("1 steps", {"exits_normal": 1.0}, lr=1e-3)
    config = CompressionConfig(mode="retrain", finetune=spec)
    data = load_data("digits", backbone, split="train")
    with pytest.raises(ConfigError, match=r"'exits_normal' trains exits, and .* has none"):
        finetune_student(student_of(backbone, config), data, spec, teacher=None)


@pytest.mark.parametrize(
    ("losses", "method", "words"),
    [
        (
            {"exits_distill": 1.0},
            "dynamicvit",
            r"'dynamicvit' must be trained, .* by exits_normal or exits_weighted",
        ),
        ({"exits_distill": 1.0, "soft": 1.0}, "evit", "'soft' beside it trains nothing"),
    ],
)
def test_heads_alone_are_not_trained_where_more_has_to_be(
    losses: dict[str, float], method: str, words: str
) -> None:
    backbone, spec = tiny_backbone(), FineTuneSpec("1 steps", losses, lr=1e-3)
    config = CompressionConfig(
        *(method, (Reduction(1, 0.5),)), mode="retrain", finetune=spec, exits=ExitPolicy((2,))
    )
    data = load_data("digits", backbone, split="train")
    with pytest.raises(ConfigError, match=words):
        finetune_student(student_of(backbone, config), data, spec, teacher=Teacher(backbone))
    check_exit_losses(dataclasses.replace(config, reductions=()), {"exits_distill": 1.0})


def test_heads_get_no_gradient_in_even_steps_but_their_statistics_move() -> None:
    made = early_model(ExitPolicy((1, 2), ("local",))).train()
    assert made.exits is not None
    watch = TapRequest(after=frozenset({1, 2}))
    left = made.forward_tokens(images(), watch=watch)
    before = {name: value.clone() for name, value in made.exits.named_buffers()}
    labels, answer = torch.arange(8), made.backbone.readout(left)
    name = "exits_alternating"
    loss = exit_loss(name, made, watch.tokens, left, answer, labels, 0)
    torch.testing.assert_close(loss, F.cross_entropy(answer, labels))
    loss.backward()
    assert all(p.grad is None for p in made.exits.parameters())
    moved = [n for n, v in made.exits.named_buffers() if not torch.equal(v, before[n])]
    assert any(name.endswith("running_mean") for name in moved)
