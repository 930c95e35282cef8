"""Precision of a fine-tune."""

import math

import pytest
import torch
from tiny_student import Noise, same, student, weights

from autotok.backbones.tiny import tiny_backbone
from autotok.finetune_spec import FineTuneSpec
from autotok.training.finetune import finetune_student
from autotok.training.teacher import Teacher

SPEC = FineTuneSpec(length="4 steps", batch_size=8, lr=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
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
