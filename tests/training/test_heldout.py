"""Judging on held-out training images: what is judged, and that judging leaves no trace."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_student import Noise, pruned, same, student, weights
from torch.nn import functional as F

from autotok.backbones.tiny import tiny_backbone
from autotok.config import CompressionConfig, Reduction
from autotok.finetune_spec import FineTuneSpec
from autotok.methods.tocom import Adapters
from autotok.training.distill import TrainingObjective
from autotok.training.finetune import finetune_student
from autotok.training.heldout import HeldOut, held_out_indices
from autotok.training.student import student_of
from autotok.training.teacher import Teacher

FACTS = tiny_backbone().facts
SPEC = FineTuneSpec(length="12 steps", batch_size=4, lr=1e-5)


def judge(model: torch.nn.Module, data: Noise, indices: list[int]) -> HeldOut:
    objective = TrainingObjective(model, SPEC, Teacher(tiny_backbone()), data, "bfloat16")
    return HeldOut(data, indices, objective)


def test_the_loss_is_that_of_the_model_as_it_is_handed_over() -> None:
    model, data = student(), Noise()
    found = judge(model, data, [3, 5, 8]).loss(model)
    images, _ = data.batch([3, 5, 8])
    with torch.no_grad():
        mine, full = model.eval()(images).log_softmax(-1), tiny_backbone()(images).log_softmax(-1)
    by_hand = F.kl_div(mine, full, reduction="batchmean", log_target=True).item()
    assert found == pytest.approx(by_hand, rel=1e-4)


@pytest.mark.parametrize("method", ["evit", "dynamicvit", "spvit", "ltmp", "tofe", "tofe-instance"])
def test_judging_leaves_no_trace_and_repeats_to_the_bit(method: str) -> None:
    model, data = student(method).train(), Noise()
    held = judge(model, data, [3, 5, 8, 9])
    before, state = weights(model), torch.random.get_rng_state()
    first = held.loss(model)
    assert same(before, weights(model))
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(part.training for part in model.modules() if part is not model)
    assert model.training
    assert held.loss(model) == first
    assert held.loss(student(method)) == first


def test_a_state_that_gives_no_numbers_is_infinitely_bad() -> None:
    model, data = student(), Noise()
    held = judge(model, data, [1, 2])
    with torch.no_grad():
        model.backbone.model.head.weight.fill_(torch.nan)
    assert held.loss(model) == torch.inf


@pytest.mark.parametrize("size", [10, 64, 1000])
def test_no_step_sees_a_held_out_image(size: int) -> None:
    data = Noise(size)
    held, spared = held_out_indices(data, SPEC.seed)
    assert len(held) == spared == min(32, size // 5)
    finetune_student(student(), data, SPEC, teacher=Teacher(tiny_backbone()))
    first = data.subset(1, 0)  # drawn once more, for the data's identity
    trained = data.drawn[1 + len(held) :]
    assert data.drawn[: 1 + len(held)] == first + held
    assert not set(trained) & set(held)


def test_four_images_are_learned_from_and_judged_on() -> None:
    assert held_out_indices(Noise(4), 0) == (Noise(4).subset(4, 0), 0)
    done = finetune_student(student(), Noise(4), SPEC, teacher=Teacher(tiny_backbone()))
    assert done.held_out_images == 4


@pytest.mark.parametrize("method", ["dynamicvit", "spvit", "ltmp", "tofe", "diffrate", "dtem"])
@pytest.mark.parametrize("lr", [1e-4, 0.03])
def test_every_kind_of_method_is_handed_over_no_worse_than_it_started(
    method: str, lr: float
) -> None:
    spec = FineTuneSpec(length="8 steps", batch_size=4, lr=lr, losses={"soft": 1.0})
    model, data = student(method, spec=spec), Noise(40)
    indices, _ = held_out_indices(data, 0)
    before = judge(student(method, spec=spec), data, indices).loss(student(method, spec=spec))
    done = finetune_student(model, data, spec, teacher=Teacher(tiny_backbone()))
    assert done.held_out_before == pytest.approx(before, rel=1e-6)
    assert done.held_out_after is not None
    assert done.held_out_after <= before
    assert pruned(method, spec).config_id == model.config.config_id


@torch.no_grad()
def test_weights_that_adapters_were_folded_into_are_judged_as_they_are_trained(
    tmp_path: Path,
) -> None:
    path = tmp_path / "adapters.safetensors"
    save_file({n: torch.ones(w.shape) for n, w in Adapters(FACTS, group_width=1).named()}, path)
    options = {"adapters": str(path), "group_width": 1}
    reductions = (Reduction(1, num_keep=8),)
    folding = CompressionConfig("tocom", reductions, options, mode="retrain", finetune=SPEC)
    model, data = student_of(tiny_backbone(), folding), Noise()
    held = judge(model, data, [3, 5])
    before = held.loss(model)
    for name, weight in model.backbone.named_parameters():
        if "qkv.weight" in name:
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    found = held.loss(model)
    images, labels = data.batch([3, 5])
    with held._objective.judging(own_terms=False):
        own = held._objective(model.eval(), images, labels, [3, 5])
    assert found == pytest.approx(float(own), rel=1e-4)
    assert found > 2 * before
