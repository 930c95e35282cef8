"""Precision of a fine-tune, and the chunks it computes in."""

import math

import pytest
import torch
from tiny_student import Noise, same, student, weights

from autotok.backbones.tiny import tiny_backbone
from autotok.evaluation.accuracy import computing
from autotok.finetune_spec import FineTuneSpec
from autotok.methods.tome import ToMe
from autotok.tokens import Taps, Tokens
from autotok.training.finetune import finetune_student
from autotok.training.precision import chunks
from autotok.training.teacher import Teacher

SPEC = FineTuneSpec(length="4 steps", batch_size=8, lr=1e-5)


@pytest.mark.parametrize("gradients", [True, False])
def test_in_training_as_in_use_tokens_are_chosen_in_full_precision(
    monkeypatch: pytest.MonkeyPatch, gradients: bool
) -> None:
    seen = []

    def reduce(self: ToMe, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        seen.append((taps.keys.dtype, torch.is_autocast_enabled("cpu")))
        return whole(self, tokens, taps, num_keep)

    whole = ToMe.reduce
    monkeypatch.setattr(ToMe, "reduce", reduce)
    model = student("tome")
    with torch.set_grad_enabled(gradients), computing(torch.device("cpu"), "bfloat16"):
        output = model(torch.randn(2, 3, 32, 32))
    assert output.requires_grad == gradients
    assert seen == [(torch.float32, False)] * len(model.config.reductions)


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


@pytest.mark.parametrize(
    ("count", "most", "sizes"),
    [(16, 13, [8, 8]), (14, 13, [7, 7]), (10, 3, [2, 3, 2, 3]), (3, 2, [3]), (5, 2, [2, 3]),
     (3, 1, [1, 1, 1]), (1, 4, [1]), (64, 2**30, [64])],
)  # fmt: skip
def test_chunks_are_equal_and_leave_no_image_alone(count: int, most: int, sizes: list[int]) -> None:
    parts = chunks(count, most)
    assert [part.stop - part.start for part in parts] == sizes
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(count))
