"""What a training step sees, from the recipe's seed and the step's number alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotok.backbones.base import Backbone
from autotok.errors import DataError
from autotok.evaluation.augment import augmented
from autotok.evaluation.data import DataSource, load_data
from autotok.evaluation.demo import CANVAS, CLASS_NAMES, MEAN, STD, DemoDigits

from .live_tokens import choose_live
from .recipe import Recipe

# a large prime: steps under neighbouring seeds draw different canvases
TRAIN_SEED_STRIDE = 1_000_003
# two streams of one seed: what augmentation draws never changes the order
ORDER_KEY, AUGMENT_KEY = 0x0EDE, 0xA06


@dataclass(frozen=True)
class Batch:
    """Images (B, C, H, W), labels (B,), and for live tokens their indices and sizes (B, K)."""

    images: Tensor
    labels: Tensor
    index: Tensor | None = None
    size: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        index = None if self.index is None else self.index.to(device)
        size = None if self.size is None else self.size.to(device)
        return Batch(self.images.to(device), self.labels.to(device), index, size)


class Batches(Protocol):
    """Where training images come from."""

    def batch(self, step: int, rng: np.random.Generator) -> Batch:
        """The images of a step; `rng` is the step's own, after the subnets were drawn."""


def training_batches(recipe: Recipe, backbone: Backbone) -> Batches:
    """The training images that a recipe names.

    Raises:
        DataError: unknown or unreadable data, or data without the model's labels.
    """
    if recipe.data == "demo" and recipe.spec.image_shape == (1, CANVAS, CANVAS):
        _check_labels(recipe, backbone.facts.num_classes == len(CLASS_NAMES))
        return _Canvases(recipe)
    data = load_data(recipe.data, backbone, split="train")
    _check_labels(recipe, data.labelled)
    return _Images(recipe, data)


def held_out(recipe: Recipe, backbone: Backbone, count: int, seed: int) -> DataSource:
    """Validation images of a recipe's data; of the demo, `count` canvases of another seed."""
    if recipe.data == "demo" and recipe.spec.image_shape == (1, CANVAS, CANVAS):
        return CanvasData(DemoDigits("val", count, seed=seed))
    return load_data(recipe.data, backbone, split="val")


def _check_labels(recipe: Recipe, labelled: bool) -> None:
    if not labelled:
        raise DataError(
            f"data '{recipe.data}' has no labels for the {recipe.spec.num_classes} classes of"
            f" '{recipe.backbone}'; set num_classes under 'spec', or give other data"
        )


class CanvasData:
    """Demo canvases of any seed as a `DataSource`, in their own order."""

    name = "demo"
    labelled = True
    labelling = "labels: the 10 classes of 'demo'"
    class_names: tuple[str, ...] | None = CLASS_NAMES

    def __init__(self, digits: DemoDigits) -> None:
        self._digits = digits

    def __len__(self) -> int:
        return len(self._digits)

    def subset(self, count: int, seed: int) -> list[int]:
        """The first `count`; classes take turns already."""
        return list(range(min(count, len(self))))

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Images (B, 1, S, S) and labels (B,)."""
        drawn = [self._digits[i] for i in indices]
        return torch.stack([image for image, _ in drawn]), torch.tensor([k for _, k in drawn])


class _Canvases:
    """Demo canvases, new ones every step; few live tokens of each where the stage says so."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe

    def batch(self, step: int, rng: np.random.Generator) -> Batch:
        recipe = self._recipe
        stage, local = recipe.locate(step)
        seed = recipe.seed + TRAIN_SEED_STRIDE * (step + 1)
        data = DemoDigits("train", stage.batch_size, seed, stage.at(stage.clutter, local))
        drawn = [data.draw(i) for i in range(stage.batch_size)]
        canvases = torch.from_numpy(np.stack([canvas for canvas, _, _ in drawn]))
        images = ((canvases - MEAN) / STD)[:, None]
        labels = torch.tensor([label for _, label, _ in drawn])
        if stage.live_tokens is None:
            return Batch(images, labels)
        power = stage.at(stage.weight_power, local)
        live = [
            choose_live(canvas, box, recipe.spec.patch_size, stage.live_tokens, power, rng)
            for canvas, _, box in drawn
        ]
        index = torch.from_numpy(np.stack([chosen.index for chosen in live]))
        return Batch(images, labels, index, torch.from_numpy(np.stack([c.size for c in live])))


class _Images:
    """Whole images of a labelled source, every epoch in another order.

    The first epoch takes the data's own seeded order as it comes, so that what cannot be read is
    met image by image, not all at once in the first batch.
    """

    def __init__(self, recipe: Recipe, data: DataSource) -> None:
        self._recipe, self._data, self._total = recipe, data, len(data)

    def batch(self, step: int, rng: np.random.Generator) -> Batch:
        recipe, total = self._recipe, self._total
        stage = recipe.locate(step)[0]
        first = recipe.images_before(step)
        places = [
            int(_order(recipe.seed, position // total, total)[position % total])
            for position in range(first, first + stage.batch_size)
        ]
        known = self._data.subset(max(places) + 1, recipe.seed)
        # an unreadable image shortens the order; its place is taken by an earlier one
        images, labels = self._data.batch([known[place % len(known)] for place in places])
        assert labels is not None
        own = np.random.default_rng([recipe.seed, step, AUGMENT_KEY])
        return Batch(augmented(images, recipe.augment, own), labels)


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, total: int) -> NDArray[np.int64]:
    if epoch == 0:
        return np.arange(total)
    return np.random.default_rng([seed, epoch, ORDER_KEY]).permutation(total)
