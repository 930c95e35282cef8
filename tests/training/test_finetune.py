"""Fine-tuning changes the student as asked, and nothing else."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from tiny_student import Noise, pruned, same, student, weights

from autotok.backbones.autoformer import SupernetSpec
from autotok.backbones.supernet import AutoFormerSupernet, SupernetView
from autotok.backbones.tiny import tiny_backbone
from autotok.config import CompressionConfig, FineTuneSpec, Reduction
from autotok.errors import Diverged, UnknownName
from autotok.evaluation.augment import augmented
from autotok.methods.learning import TrainingRecipe
from autotok.training import finetune as room
from autotok.training.batches import BatchOrder, augmentation_draws
from autotok.training.distill import Teacher
from autotok.training.finetune import FineTuneProgress, finetune_student
from autotok.training.probe import CAREFUL, RATES, USUAL, RateChoice, lower
from autotok.training.schedule import make_optimizer, make_schedule, set_lr, training_plan
from autotok.training.steps import MOST_BACK_OFFS, TrainingRun
from autotok.training.student import student_of

SPEC = FineTuneSpec(length="4 steps", batch_size=8, lr=1e-5)


def tuned(
    spec: FineTuneSpec, *, precision: str = "float32", method: str = "evit"
) -> torch.nn.Module:
    model = student(method)
    finetune_student(model, Noise(), spec, teacher=Teacher(tiny_backbone()), precision=precision)
    return model


@pytest.mark.parametrize("method", ["evit", "tome", "topk"])
def test_fine_tuning_a_pruned_model_reduces_its_loss(method: str) -> None:
    spec = FineTuneSpec(length="60 steps", batch_size=8, lr=2e-3)
    losses: list[float] = []
    done = finetune_student(
        student(method), Noise(16), spec, teacher=Teacher(tiny_backbone()),
        on_progress=lambda p: losses.append(p.loss),
    )  # fmt: skip
    assert done.loss < 0.5 * losses[0]
    assert (done.steps, done.images) == (60, 480)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_either_precision_trains_and_is_recorded(precision: str) -> None:
    model = student()
    before = weights(model)
    done = finetune_student(
        model, Noise(), SPEC, teacher=Teacher(tiny_backbone()), precision=precision
    )
    assert done.precision == precision
    assert math.isfinite(done.loss)
    assert not same(before, weights(model))
    assert all(p.dtype == torch.float32 for p in model.parameters())


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


def test_the_given_backbone_is_unchanged_to_the_bit() -> None:
    backbone = tiny_backbone()
    before, flags = weights(backbone), [p.requires_grad for p in backbone.parameters()]
    model = student(backbone=backbone)
    finetune_student(model, Noise(), SPEC, teacher=Teacher(backbone))
    assert same(before, weights(backbone))
    assert [p.requires_grad for p in backbone.parameters()] == flags
    assert all(p.grad is None for p in backbone.parameters())
    assert not backbone.training
    assert not model.training
    assert not same(before, weights(model.backbone))


def test_the_same_seed_gives_the_same_weights_and_another_one_others() -> None:
    spec = dataclasses.replace(SPEC, augment="crop-flip")
    torch.manual_seed(1)
    first = weights(tuned(spec))
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    assert same(first, weights(tuned(spec)))
    assert torch.equal(state, torch.random.get_rng_state())
    assert not same(first, weights(tuned(dataclasses.replace(spec, seed=1))))


def test_averaged_weights_lie_between_the_first_and_the_last_ones() -> None:
    start, last = weights(student()), weights(tuned(SPEC))
    mean = weights(tuned(dataclasses.replace(SPEC, ema_decay=0.9)))
    by_hand = {}
    spec = dataclasses.replace(SPEC, ema_decay=0.0)
    assert spec == SPEC
    for name in ("backbone.model.head.weight", "backbone.model.blocks.0.mlp.fc1.weight"):
        by_hand[name] = (mean[name] - start[name]).norm() / (last[name] - start[name]).norm()
        assert 0.0 < by_hand[name] < 1.0


def test_what_is_not_a_matrix_does_not_decay() -> None:
    net = AutoFormerSupernet(tiny_supernet())
    model = student_of(SupernetView(net, net.spec.largest()), CompressionConfig())
    optimizer = make_optimizer(FineTuneSpec(lr=1e-4, weight_decay=0.3), TrainingRecipe(), model)
    names = {id(p): name for name, p in model.named_parameters()}
    decaying = {
        names[id(p)] for g in optimizer.param_groups for p in g["params"] if g["weight_decay"] > 0
    }
    assert decaying
    assert all(n.endswith("weight") and "norm" not in n for n in decaying)
    assert len({id(p) for g in optimizer.param_groups for p in g["params"]}) == len(names)


def test_the_learning_rate_warms_up_and_falls_to_a_hundredth() -> None:
    spec = FineTuneSpec(lr=1.0, warmup=0.1)
    optimizer = make_optimizer(spec, TrainingRecipe(), student())
    schedule = make_schedule(spec, optimizer)
    rates = [set_lr(schedule, optimizer, x) for x in (0.05, 0.1, 0.55, 1.0)]
    np.testing.assert_allclose(rates, [0.5, 1.0, 0.505, 0.01], atol=1e-4)


def test_a_recipe_scales_the_rates_and_freezes_the_backbone_at_first() -> None:
    spec = FineTuneSpec(lr=1.0, warmup=0.0)
    model = student()
    model.reducers["0"].scorer = torch.nn.Linear(4, 2)
    optimizer = make_optimizer(spec, TrainingRecipe(backbone_lr=0.01, reducer_decay=0.5), model)
    schedule = make_schedule(spec, optimizer)
    seen = []
    for progress in (0.1, 0.4):
        set_lr(schedule, optimizer, progress, frozen_share=0.2)
        seen.append({group["part"]: group["lr"] for group in optimizer.param_groups})
    assert seen[0]["backbone"] == 0.0
    assert seen[1]["backbone"] == pytest.approx(0.01 * seen[1]["method"])
    assert {g["weight_decay"] for g in optimizer.param_groups if g["part"] == "method"} == {
        0.0,
        0.5,
    }


def test_a_backbone_at_rate_zero_is_no_part_of_the_optimiser() -> None:
    model = student()
    model.reducers["0"].scorer = torch.nn.Linear(4, 2)
    optimizer = make_optimizer(SPEC, TrainingRecipe(backbone_lr=0.0), model)
    assert {group["part"] for group in optimizer.param_groups} == {"method"}


def test_epochs_are_counted_in_whole_batches_and_steps() -> None:
    order = BatchOrder(Noise(50), 0, 8, 50)
    assert order.per_epoch == 6
    assert training_plan(FineTuneSpec(length="2 epochs", batch_size=8), 6).steps == 12
    assert training_plan(FineTuneSpec(length="0.5 epochs", accumulate=2), 6).steps == 2
    model = student()
    spec = FineTuneSpec(length="1 epoch", batch_size=20, lr=1e-4)
    assert finetune_student(model, Noise(50), spec, teacher=Teacher(tiny_backbone())).steps == 2


def test_minutes_end_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 1.0
        return now

    monkeypatch.setattr(room.time, "perf_counter", clock)
    seen: list[FineTuneProgress] = []
    spec = FineTuneSpec(length="0.1 minutes", batch_size=4)
    done = finetune_student(
        student(), Noise(), spec, teacher=Teacher(tiny_backbone()), on_progress=seen.append
    )
    assert done.seconds >= 6.0
    assert 2 <= done.steps <= 7
    assert seen[-1].progress == 1.0
    assert seen[0].steps is None
    assert [p.progress for p in seen] == sorted(p.progress for p in seen)


def test_every_epoch_is_another_order_of_the_same_images() -> None:
    order = BatchOrder(Noise(32), 4, 8, 32)
    epochs = [[i for b in range(4) for i in order.indices(4 * e + b)] for e in range(3)]
    assert all(sorted(epoch) == list(range(32)) for epoch in epochs)
    assert epochs[0] == Noise(32).subset(32, 4)
    assert epochs[0] != epochs[1] != epochs[2]
    assert order.indices(5) == epochs[1][8:16]


def test_a_short_fine_tune_draws_its_own_images_only() -> None:
    data = Noise(50_000)
    finetune_student(student(), data, SPEC, teacher=Teacher(tiny_backbone()))
    assert len(data.drawn) == 4 * 8 + 32 + 1  # those held out, and one for the data's identity


def test_crops_and_flips_depend_on_seed_and_batch_alone() -> None:
    images = torch.arange(2 * 16 * 16.0).reshape(2, 1, 16, 16)
    first, again, other = (
        augmented(images, "crop-flip", augmentation_draws(0, number)) for number in (3, 3, 4)
    )
    assert first.shape == images.shape
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert augmented(images, "none", augmentation_draws(0, 3)) is images
    with pytest.raises(UnknownName, match="did you mean 'crop-flip'"):
        tuned(dataclasses.replace(SPEC, augment="cropflip"))


def test_a_learning_rate_far_too_high_is_stopped_with_its_step_and_loss() -> None:
    spec = FineTuneSpec(length="200 steps", batch_size=8, lr=1.0, warmup=0.0, clip_norm=0.0)
    with pytest.raises(Diverged, match=r"diverged at step \d+ \(.*lower lr than 1"):
        tuned(spec)


def test_a_loss_that_is_no_number_stops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = student()
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    before = weights(model)
    with pytest.raises(Diverged, match=r"at step 1 \(loss nan\)"):
        finetune_student(model, Noise(), SPEC, teacher=Teacher(tiny_backbone()))
    head = "backbone.model.head.weight"
    assert torch.equal(before[head], weights(model)[head])


def tiny_supernet() -> SupernetSpec:
    return SupernetSpec(
        embed_dim=16, depth=2, heads=2, mlp_ratio=2.0, embed_choices=(8, 16), depth_choices=(2,),
        heads_choices=(1, 2), mlp_ratio_choices=(1.0, 2.0), image_shape=(3, 32, 32), patch_size=8,
        num_classes=10, head_dim=8,
    )  # fmt: skip


def test_a_view_on_a_supernet_becomes_a_student_of_its_own() -> None:
    net = AutoFormerSupernet(tiny_supernet()).eval()
    before = weights(net)
    view = SupernetView(net, net.spec.smallest(), name="small").eval()
    config = CompressionConfig("tome", (Reduction(0, num_keep=10),), mode="retrain")
    model = student_of(view, config)
    assert model.backbone.facts == view.facts
    finetune_student(
        model, Noise(), SPEC, teacher=Teacher(SupernetView(net, net.spec.largest()).eval())
    )
    assert same(before, weights(net))


def test_hooks_on_the_given_backbone_do_not_come_along() -> None:
    backbone = tiny_backbone()
    calls = []

    class Unpicklable:
        def __init__(self) -> None:
            import threading

            self.lock = threading.Lock()

        def __call__(self, *_: object) -> None:
            calls.append(1)

    backbone.model.blocks[0].register_forward_hook(Unpicklable())
    backbone.model.norm.register_forward_hook(Unpicklable())
    model = student(backbone=backbone)
    model(torch.randn(1, 3, 32, 32))
    assert not calls
    backbone(torch.randn(1, 3, 32, 32))
    assert calls


def test_a_configurations_own_extra_loss_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    model = student()
    reducer = model.reducers["0"]
    monkeypatch.setattr(reducer, "extra_loss", lambda context: torch.tensor(100.0))
    done = finetune_student(model, Noise(), SPEC, teacher=Teacher(tiny_backbone()))
    assert done.loss > 100.0
    assert pruned().config_id == model.config.config_id


def probing_nothing(monkeypatch: pytest.MonkeyPatch, lr: float) -> None:
    """A probe that errs."""

    def find(run: TrainingRun, _: float) -> None:
        run.choice = RateChoice(lr, "guessed")
        run.set_rate(lr)

    monkeypatch.setattr(room, "find_rate", find)


def test_a_probed_rate_that_diverges_is_lowered_a_bounded_number_of_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    probing_nothing(monkeypatch, 1.0)
    spec = FineTuneSpec(length="200 steps", batch_size=8, warmup=0.0, clip_norm=0.0)
    done = finetune_student(student(), Noise(), spec, teacher=Teacher(tiny_backbone()))
    rates = [one.lr for one in done.back_offs]
    assert 1 <= len(rates) <= MOST_BACK_OFFS
    assert rates == sorted(rates, reverse=True)
    assert rates[0] < 1.0
    assert done.steps <= 200
    assert done.held_out_before is not None
    assert done.held_out_after is not None
    assert done.held_out_after <= done.held_out_before
    assert "diverged" in done.evidence()["back_offs"][0]["why"]


def test_a_rate_that_only_harms_hands_the_start_over_to_the_bit() -> None:
    spec = FineTuneSpec(length="4 steps", batch_size=8, lr=0.3, warmup=0.0)
    model, start = student(), student()
    done = finetune_student(model, Noise(), spec, teacher=Teacher(tiny_backbone()))
    assert done.kept_step == 0
    assert done.evidence()["kept_reason"].startswith("the start")
    assert same(weights(start), weights(model))


def test_a_given_rate_is_taken_and_not_probed() -> None:
    done = finetune_student(student(), Noise(), SPEC, teacher=Teacher(tiny_backbone()))
    assert (done.rate.lr, done.rate.why, done.rate.tried) == (1e-5, "given", ())
    assert done.steps == 4


def test_a_probe_counts_within_the_length_and_its_losses_are_recorded() -> None:
    spec = FineTuneSpec.from_dict({"length": "100 steps", "batch_size": 8, "lr": "auto"})
    assert spec.lr is None
    done = finetune_student(student(), Noise(), spec, teacher=Teacher(tiny_backbone()))
    assert 80 <= done.steps < 100
    assert done.steps + done.rate.spent == 100
    found = done.evidence()
    assert found["lr"] in (*RATES, lower(RATES[-1]))
    assert len(found["probe"]) >= 1
    assert [one["lr"] for one in found["probe"]] == [one.lr for one in done.rate.tried]
    assert json.dumps(found)


@pytest.mark.parametrize(("method", "lr"), [("evit", CAREFUL), ("dynamicvit", USUAL)])
def test_too_short_for_a_probe_pretrained_weights_are_spared_and_new_ones_are_not(
    method: str, lr: float
) -> None:
    spec = dataclasses.replace(SPEC, lr=None)
    done = finetune_student(student(method), Noise(), spec, teacher=Teacher(tiny_backbone()))
    assert (done.rate.lr, done.rate.why) == (lr, "4 steps are too few for a probe")
