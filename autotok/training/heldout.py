"""What a fine-tune is worth: its loss on a few training images that no step sees."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autotok.backbones.base import evaluating
from autotok.compression.calibrate import calibrated
from autotok.compression.compress import reconfigured
from autotok.compression.model import CompressedViT
from autotok.evaluation.data import DataSource
from autotok.methods.learning import Learning
from autotok.methods.registry import get_method
from autotok.methods.thresholds import Calibrated

from .batches import seed_streams
from .distill import TrainingObjective
from .precision import chunk_size, chunks

MOST_IMAGES = 32
SHARE = 5
"""One training image in so many, at most, is held out."""
# every check draws the same, so that two states differ by their weights alone
SEED = 0x4E1D


def held_out_indices(data: DataSource, seed: int) -> tuple[list[int], int]:
    """Data indices to judge on, and how many of the seeded order no step may see.

    Of fewer than five images none can be spared: then they are learned from and judged on.
    """
    spared = min(MOST_IMAGES, len(data) // SHARE)
    return data.subset(spared or len(data), seed), spared


@contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """Leaves the caller's random state as it was."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """A copy of a module's weights and buffers, on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}


@dataclass
class Best:
    """The state with the lowest loss on held-out images so far, as it would be handed over."""

    step: int
    loss: float
    state: dict[str, Tensor]


class HeldOut:
    """Judges states of one student, all on the same images and in the same way.

    A state is judged as it would be handed over: in evaluation mode, thresholds calibrated afresh
    so that states meet at the same number of tokens. Where a method learns how much is kept, states
    differ in cost as well; there its training form with its own terms is judged, which hold it to
    what was asked for.
    """

    def __init__(
        self, data: DataSource, indices: Sequence[int], objective: TrainingObjective
    ) -> None:
        self.indices, self._objective = list(indices), objective
        images, self._labels = data.batch(self.indices)
        device = next(iter(objective.parameters()), images).device
        self._images: Tensor = images.to(device)

    def loss(self, student: CompressedViT, count: int | None = None) -> float:
        """Mean loss over the first `count` images, infinite where it is no number."""
        device, learns = next(student.parameters()).device, _learns_amounts(student)
        judging = self._objective.judging(own_terms=learns)
        with torch.no_grad(), own_randomness(device), judging, evaluating(student):
            seed_streams(SEED, device)
            found = self._mean(self._as_handed_over(student, learns), count, device)
        return found if math.isfinite(found) else math.inf

    def _as_handed_over(self, student: CompressedViT, learns: bool) -> CompressedViT:
        """A model on the same backbone; the student's own reducers are not touched."""
        model = reconfigured(student, student.config)
        if learns:
            model.reducers.train()
        elif _is_calibrated(student):
            model = calibrated(model, self._images)
        return model

    def _mean(self, model: CompressedViT, count: int | None, device: torch.device) -> float:
        number = min(count or len(self.indices), len(self.indices))
        total = 0.0
        for part in chunks(number, chunk_size(model.backbone.facts, device)):
            labels = None if self._labels is None else self._labels[part].to(device)
            images = self._images[part].to(device)
            loss: Tensor = self._objective(model, images, labels, self.indices[part])
            total += loss.item() * len(images)
        return total / number


def _learns_amounts(student: CompressedViT) -> bool:
    """Whether training itself changes how much is kept, so that there is something to emit."""
    method = get_method(student.config.method)
    if not issubclass(method, Learning):
        return False
    own, plain = (inspect.getattr_static(cls, "emit") for cls in (method, Learning))
    return own is not plain


def _is_calibrated(student: CompressedViT) -> bool:
    """Whether the method has thresholds that its amounts decide."""
    method = get_method(student.config.method)
    amounts = [r for r in student.config.reductions if (r.keep_ratio, r.num_keep) != (None, None)]
    return issubclass(method, Calibrated) and bool(amounts)
