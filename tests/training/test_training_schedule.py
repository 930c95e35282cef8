"""Learning rates, and how long they are held."""

import numpy as np
import pytest
import torch
from tiny_student import Noise, student

from autotok.backbones.autoformer import SupernetSpec
from autotok.backbones.supernet import AutoFormerSupernet, SupernetView
from autotok.backbones.tiny import tiny_backbone
from autotok.config import CompressionConfig
from autotok.finetune_spec import FineTuneSpec
from autotok.methods.learning import TrainingRecipe
from autotok.training.batches import BatchOrder
from autotok.training.finetune import finetune_student
from autotok.training.schedule import make_optimizer, make_schedule, set_lr, training_plan
from autotok.training.student import student_of
from autotok.training.teacher import Teacher

SPEC = FineTuneSpec(length="4 steps", batch_size=8, lr=1e-5)


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


def tiny_supernet() -> SupernetSpec:
    return SupernetSpec(
        embed_dim=16, depth=2, heads=2, mlp_ratio=2.0, embed_choices=(8, 16), depth_choices=(2,),
        heads_choices=(1, 2), mlp_ratio_choices=(1.0, 2.0), image_shape=(3, 32, 32), patch_size=8,
        num_classes=10, head_dim=8,
    )  # fmt: skip
