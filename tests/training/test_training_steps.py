"""Steps of a fine-tune: batches in parts, averages, numbers that are none."""

import dataclasses
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import TypeVar, cast

import pytest
import torch
from tiny_student import Noise, same, student, weights, with_batch_norms

from autotok.backbones.tiny import tiny_backbone
from autotok.config import CompressionConfig, Reduction
from autotok.errors import Diverged
from autotok.exits import parse_exits
from autotok.finetune_spec import FineTuneSpec
from autotok.training import finetune as room
from autotok.training.finetune import finetune_student
from autotok.training.heldout import HeldOut
from autotok.training.ranks import Ranks
from autotok.training.steps import WINDOW, TrainingRun, check_divergence, prepare_step
from autotok.training.student import student_of
from autotok.training.teacher import Teacher

T = TypeVar("T")
SPEC = FineTuneSpec(length="4 steps", batch_size=8, lr=1e-5)


def tuned(
    spec: FineTuneSpec, *, precision: str = "float32", method: str = "evit"
) -> torch.nn.Module:
    model = student(method)
    finetune_student(model, Noise(), spec, teacher=Teacher(tiny_backbone()), precision=precision)
    return model


def test_two_batches_of_eight_equal_one_of_sixteen() -> None:
    losses = {"soft": 1.0, "ce": 0.5}
    one = dataclasses.replace(SPEC, batch_size=16, losses=losses)
    two = dataclasses.replace(SPEC, batch_size=8, accumulate=2, losses=losses)
    left, right = tuned(one).state_dict(), tuned(two).state_dict()
    for name in left:
        torch.testing.assert_close(left[name], right[name], atol=1e-5, rtol=0)


def test_a_batch_in_chunks_equals_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = dataclasses.replace(SPEC, losses={"soft": 1.0, "relations": 0.5, "mimic": 1.0})
    whole = tuned(spec).state_dict()
    monkeypatch.setattr(room, "chunk_size", lambda *_: 3)
    parts = tuned(spec).state_dict()
    for name in whole:
        torch.testing.assert_close(whole[name], parts[name], atol=1e-5, rtol=0)


def test_heads_train_on_one_token_of_each_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "chunk_size", lambda *_: 4)
    exits = parse_exits("local@2")
    config = CompressionConfig("topk", (Reduction(1, num_keep=1),), exits=exits, mode="retrain")
    spec = dataclasses.replace(SPEC, batch_size=5, losses={"exits_normal": 1.0}, length="1 steps")
    done = finetune_student(student_of(tiny_backbone(), config), Noise(), spec, teacher=None)
    assert done.images == 5


@pytest.mark.parametrize(
    ("method", "step", "held"), [("dtem", 3, True), ("spvit", 0, True), ("spvit", 3, False)]
)
def test_running_means_of_a_frozen_backbone_stay_as_they_are(
    method: str, step: int, held: bool
) -> None:
    model = student(method, backbone=with_batch_norms())
    before = weights(model.backbone)
    spec = dataclasses.replace(SPEC, losses={"ce": 1.0})
    run = room._built(model, Noise(), spec, None, "float32", [0], (1, 63))
    run.step = step
    prepare_step(run)
    assert same(weights(model.backbone), before) == held


def test_averaged_weights_lie_between_the_first_and_the_last_ones() -> None:
    start, last = weights(student()), weights(tuned(SPEC))
    mean = weights(tuned(dataclasses.replace(SPEC, ema_decay=0.9)))
    by_hand = {}
    spec = dataclasses.replace(SPEC, ema_decay=0.0)
    assert spec == SPEC
    for name in ("backbone.model.head.weight", "backbone.model.blocks.0.mlp.fc1.weight"):
        by_hand[name] = (mean[name] - start[name]).norm() / (last[name] - start[name]).norm()
        assert 0.0 < by_hand[name] < 1.0


def test_a_loss_that_is_no_number_stops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = student()
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    before = weights(model)
    with pytest.raises(Diverged, match=r"at step 1 \(loss nan\)"):
        finetune_student(model, Noise(), SPEC, teacher=Teacher(tiny_backbone()))
    head = "backbone.model.head.weight"
    assert torch.equal(before[head], weights(model)[head])


def test_losses_that_take_turns_do_not_look_like_divergence() -> None:
    exits = parse_exits("linear@1,2")
    config = CompressionConfig("none", (), exits=exits, mode="retrain")
    spec = dataclasses.replace(SPEC, losses={"exits_alternating": 1.0})
    run = room._built(
        student_of(tiny_backbone(), config), Noise(), spec, None, "float32", [0], (1, 63)
    )
    for _ in range(WINDOW):  # a good model, and heads that know nothing of a thousand classes yet
        run.losses += [0.1, 4.7]
    run.step = 2 * WINDOW
    check_divergence(run)
    run.losses[-WINDOW:] = [9.0, 9.0] * (WINDOW // 2)
    with pytest.raises(Diverged, match=r"at the start 2\.4"):
        check_divergence(run)


def test_held_out_images_are_judged_in_the_first_process_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Second(Ranks):
        def from_first(self, work: Callable[[], T]) -> T:
            return cast(T, 0.25)

    looked: list[int] = []
    monkeypatch.setattr(HeldOut, "loss", lambda *_: looked.append(1) or 9.0)
    run = SimpleNamespace(ranks=Second(1, 2), held_out=HeldOut, student=None)
    assert TrainingRun.judged(cast(TrainingRun, run)) == 0.25
    assert looked == []
