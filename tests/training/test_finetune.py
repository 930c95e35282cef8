"""Fine-tuning changes the student as asked, and nothing else."""

import dataclasses

import pytest
import torch
from tiny_student import Noise, pruned, same, student, weights

from autotok.backbones.autoformer import SupernetSpec
from autotok.backbones.supernet import AutoFormerSupernet, SupernetView
from autotok.backbones.tiny import tiny_backbone
from autotok.config import CompressionConfig, Reduction
from autotok.errors import Diverged
from autotok.finetune_spec import FineTuneSpec
from autotok.training import finetune as room
from autotok.training.finetune import finetune_student
from autotok.training.finetuned import FineTuneProgress
from autotok.training.probe import RateChoice
from autotok.training.steps import MOST_BACK_OFFS, TrainingRun
from autotok.training.student import student_of
from autotok.training.teacher import Teacher

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


def test_a_learning_rate_far_too_high_is_stopped_with_its_step_and_loss() -> None:
    spec = FineTuneSpec(length="200 steps", batch_size=8, lr=1.0, warmup=0.0, clip_norm=0.0)
    with pytest.raises(Diverged, match=r"diverged at step \d+ \(.*lower lr than 1"):
        tuned(spec)


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
    spec = FineTuneSpec(length="80 steps", batch_size=8, warmup=0.0, clip_norm=0.0)
    done = finetune_student(student(), Noise(), spec, teacher=Teacher(tiny_backbone()))
    rates = [one.lr for one in done.back_offs]
    assert 1 <= len(rates) <= MOST_BACK_OFFS
    assert rates == sorted(rates, reverse=True)
    assert rates[0] < 1.0
    assert done.steps <= 80
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
