"""Which images a fine-tune sees, in which order."""

import dataclasses

import pytest
import torch
from tiny_student import Noise, student

from autotok.backbones.tiny import tiny_backbone
from autotok.errors import UnknownName
from autotok.evaluation.augment import augmented
from autotok.finetune_spec import FineTuneSpec
from autotok.training.batches import BatchOrder, augmentation_draws, seed_streams
from autotok.training.finetune import finetune_student
from autotok.training.teacher import Teacher

SPEC = FineTuneSpec(length="4 steps", batch_size=8, lr=1e-5)


def tuned(
    spec: FineTuneSpec, *, precision: str = "float32", method: str = "evit"
) -> torch.nn.Module:
    model = student(method)
    finetune_student(model, Noise(), spec, teacher=Teacher(tiny_backbone()), precision=precision)
    return model


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


def test_streams_of_the_cpu_start_as_torch_starts_them() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    seed_streams(7, torch.device("cpu"))
    assert torch.equal(torch.rand(3), expected)
