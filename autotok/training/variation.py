"""Images, labels and depth varied as strongly as DeiT's training does it, by timm's own pieces.

Touvron et al., ICML 2021, arXiv 2012.12877, table 9. Everything is a function of (seed, batch
number, place in the batch), so that a resumed fine-tune, and one that several processes share, see
what an uninterrupted one alone would.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from autotok.backbones.base import Backbone
from autotok.backbones.torchvision_shim import ensure_torchvision
from autotok.errors import ConfigError, UnknownName
from autotok.evaluation.augment import AUGMENTS, augmented
from autotok.evaluation.data import DataSource
from autotok.evaluation.preprocessing import Preprocessing, preprocessing_of
from autotok.finetune_spec import FineTuneSpec

from .batches import augmentation_draws

ensure_torchvision()

from timm.data import Mixup, auto_augment, create_transform  # noqa: E402
from timm.data.random_erasing import RandomErasing  # noqa: E402
from timm.layers import drop_path  # noqa: E402

RESIZED_CROP = "resized-crop-flip"
TRAINING_AUGMENTS = (*AUGMENTS, RESIZED_CROP)
# two streams of one seed, beside those of order and crops
_EACH, _MIX = 0xEAC4, 0x313C


def check_variation(spec: FineTuneSpec, data: DataSource, batch_size: int) -> None:
    """Raise unless these images can be varied as a spec says, in batches of this size.

    Raises:
        UnknownName: the augmentation is unknown.
        ConfigError: labels are to be smoothed where there are none, or no loss takes them so, or an
            odd batch is to be mixed.
    """
    check_training_augment(spec.augment)
    if spec.label_smoothing > 0 and not data.labelled:
        raise ConfigError(
            f"label_smoothing {spec.label_smoothing:g} needs labels, but data '{data.name}' has"
            " none that match the model's classes; leave it out, or give such data"
        )
    check_smoothing(spec)
    if spec.mixes and batch_size % 2:
        raise ConfigError(
            f"mixup and CutMix pair the images of a batch, and a batch has {batch_size}; give an"
            " even batch_size, of no more than the training images"
        )


def check_smoothing(spec: FineTuneSpec) -> None:
    """Raise `ConfigError` where labels are to be smoothed that no loss takes."""
    if spec.label_smoothing > 0 and "ce" not in spec.losses:
        raise ConfigError(
            f"label_smoothing {spec.label_smoothing:g} is of loss 'ce' alone, and the losses are"
            f" {', '.join(spec.losses)}; add ce, or leave it out"
        )


def check_training_augment(name: str) -> None:
    """Raise `UnknownName` unless a fine-tune knows the augmentation."""
    if name not in TRAINING_AUGMENTS:
        raise UnknownName("augmentation", name, TRAINING_AUGMENTS)


class Variation:
    """What becomes of a batch's images and labels before a step learns from them.

    In timm's order: crop and flip, RandAugment, random erasing, then mixup or CutMix of the batch
    with itself in reverse order. Crops are taken from images as the model is judged on them.
    """

    def __init__(self, spec: FineTuneSpec, backbone: Backbone) -> None:
        self._spec = spec
        self._erase = RandomErasing(spec.random_erasing, mode="pixel", device="cpu")
        self._mix = Mixup(
            spec.mixup,
            spec.cutmix,
            label_smoothing=0.0,  # the loss smooths
            num_classes=max(1, backbone.facts.num_classes),
        )
        self._redrawn: _Redrawn | None = None
        if spec.augment == RESIZED_CROP or spec.randaugment:
            self._redrawn = _Redrawn(spec, preprocessing_of(backbone))

    def __call__(
        self, images: Tensor, labels: Tensor | None, number: int, rows: Sequence[int], total: int
    ) -> tuple[Tensor, Tensor | None]:
        """Images (B, C, H, W) and labels of batch `number`; mixed labels are (B, classes) shares.

        `rows` are their places in the batch of `total`; to be mixed, i is among them if
        total - 1 - i is.
        """
        spec = self._spec
        if spec.augment in AUGMENTS:
            draws = augmentation_draws(spec.seed, number)
            images = augmented(images, spec.augment, draws, rows=rows, total=total)
        if self._redrawn is not None or spec.random_erasing:
            images = images.clone()
            for place, row in enumerate(rows):
                with drawing_from(spec.seed, _EACH, number, row):
                    if self._redrawn is not None:
                        images[place] = self._redrawn(images[place])
                    self._erase(images[place])
        if spec.mixes:
            shares = torch.zeros(len(images), dtype=torch.int64) if labels is None else labels
            with drawing_from(spec.seed, _MIX, number):
                images, mixed = self._mix(images.clone(), shares)
            labels = None if labels is None else mixed
        return images, labels


class _Redrawn:
    """Crops and RandAugment of one image, which timm draws with Pillow."""

    def __init__(self, spec: FineTuneSpec, preprocessing: Preprocessing) -> None:
        self._crops, self._grey = spec.augment == RESIZED_CROP, preprocessing.channels == 1
        self._scale = torch.tensor(preprocessing.std).view(-1, 1, 1)
        self._shift = torch.tensor(preprocessing.mean).view(-1, 1, 1)
        self._crop, self._randaugment, _ = create_transform(
            (preprocessing.height, preprocessing.width),
            is_training=True,
            separate=True,
            color_jitter=None,
            auto_augment=spec.randaugment or None,
            interpolation=preprocessing.interpolation,
            mean=preprocessing.mean * (3 if self._grey else 1),
        )
        for step in getattr(self._randaugment, "transforms", ()):
            for part in getattr(step, "ops", ()):
                if part.aug_fn is auto_augment.posterize:
                    part.aug_fn = _posterized

    def __call__(self, image: Tensor) -> Tensor:
        """An image (C, H, W), normalised before and after."""
        pixels = ((image * self._scale + self._shift) * 255).round().clamp(0, 255).to(torch.uint8)
        picture = Image.fromarray(pixels.expand(3, -1, -1).permute(1, 2, 0).numpy())
        picture = self._randaugment(self._crop(picture) if self._crops else picture)
        array = np.array(picture.convert("L") if self._grey else picture, dtype=np.float32)
        values = torch.from_numpy(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1)
        return (values / 255 - self._shift) / self._scale


def _posterized(picture: Image.Image, bits_to_keep: int, **_: object) -> Image.Image:
    """timm's, which may ask to keep no bit: Pillow painted that black, and refuses it since 13."""
    if bits_to_keep > 0:
        return cast(Image.Image, auto_augment.posterize(picture, bits_to_keep))
    return Image.new(picture.mode, picture.size)


class StochasticDepth:
    """Leaves whole branches out of single images, more often with depth; the others are scaled up.

    Huang et al., ECCV 2016, arXiv 1603.09382; from 0 in the first block to `rate` in the last, as
    timm has it.
    """

    def __init__(self, rate: float, num_blocks: int) -> None:
        self._rates = [rate * layer / max(1, num_blocks - 1) for layer in range(num_blocks)]

    def __call__(self, layer: int, branch: Tensor) -> Tensor:
        """The branch (B, N, C) of a block."""
        dropped: Tensor = drop_path(branch, self._rates[layer], training=True)
        return dropped


@contextmanager
def drawing_from(*key: int) -> Iterator[None]:
    """While it lasts, the global streams that timm draws from start at a key; then as before."""
    first, second = (int(word) for word in np.random.SeedSequence(key).generate_state(2))
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.seed(first)
    np.random.seed(second)  # noqa: NPY002
    torch.default_generator.manual_seed(first)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])
