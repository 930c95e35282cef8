"""A tiny student, its data and its fine-tune, for the tests of this room and their sub-process."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from autotok.backbones.base import Backbone
from autotok.backbones.lvvit import LVViT, LVViTSpec
from autotok.backbones.tiny import tiny_backbone
from autotok.compression.model import CompressedViT
from autotok.config import CompressionConfig, Reduction
from autotok.finetune_spec import FineTuneSpec
from autotok.training.student import student_of


class Noise:
    """Random images of a few classes, each drawn when asked for."""

    class_names = None

    def __init__(self, size: int = 64, *, labelled: bool = True, name: str = "noise") -> None:
        self.size, self.labelled, self.name = size, labelled, name
        self.drawn: list[int] = []

    def __len__(self) -> int:
        return self.size

    def subset(self, count: int, seed: int) -> list[int]:
        order = np.random.default_rng([seed, 5]).permutation(self.size)
        return [int(i) for i in order[:count]]

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        self.drawn += indices
        images = torch.stack(
            [torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(i)) for i in indices]
        )
        return images, torch.tensor([i % 10 for i in indices]) if self.labelled else None


def pruned(method: str = "evit", spec: FineTuneSpec | None = None) -> CompressionConfig:
    reductions = (Reduction(0, num_keep=8), Reduction(2, num_keep=5))
    return CompressionConfig(method, reductions, mode="retrain", finetune=spec)


def with_batch_norms() -> LVViT:
    """An LV-ViT: its stem keeps running means."""
    spec = LVViTSpec(24, 3, 3, 48, image_shape=(3, 32, 32), patch_size=8, num_classes=10)
    return LVViT(spec, name="lvvit_s").eval()


def student(
    method: str = "evit", *, backbone: Backbone | None = None, spec: FineTuneSpec | None = None
) -> CompressedViT:
    return student_of(backbone or tiny_backbone(), pruned(method, spec))


def weights(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)
