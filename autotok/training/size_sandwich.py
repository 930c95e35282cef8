"""`train_at_sizes`: one set of weights for several image sizes and several keep rates.

Lin et al., IJCV 2023, arXiv 2205.11397 (SuperViT). Every step draws two keep rates and one of the
smaller sizes, and runs four subnets on one batch: the full size whole, then pruned; the drawn size
whole, then pruned. The whole ones learn from the labels, each pruned one from the answer of the
whole one of its size, which does not learn from it (Kullback-Leibler, temperature 1). The four
gradients add up, and the weights move once. Everything random is a function of (seed, step).

Departures: it starts from a trained model, whose position table is resampled for sizes that have
none, where the authors train from nothing; one process, in float32; the length is a number of
steps, and the images are varied as `augment` says, without mixup, erasing, label smoothing or
stochastic depth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from autotok.backbones.base import Backbone
from autotok.backbones.size_tables import add_size_tables
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig
from autotok.errors import ConfigError, DataError, Diverged
from autotok.evaluation.augment import augmented, check_augment
from autotok.evaluation.data import DataSource
from autotok.evaluation.transfer import sent
from autotok.facts import BackboneFacts
from autotok.finetune_spec import check_seed
from autotok.methods.author_units import from_stage_ratios
from autotok.methods.losses import self_distillation

from .batches import BatchOrder, augmentation_draws, seed_streams
from .schedule import decay_groups
from .student import student_of

_SUBNETS = 0x51DE5
"""The stream of a seed that draws sizes and rates."""
LR_IMAGES = 512
"""Images a step that the learning rate is given for."""


@dataclass(frozen=True)
class SizedSubnet:
    """A pair of image size and keep rate of one model."""

    side: int | None
    """Pixels; None is the model's own size."""
    rate: float
    """Share of the tokens entering a reduction layer, the class token counted, that stay; at 1 the
    model runs whole."""

    def config(self, facts: BackboneFacts, layers: Iterable[int]) -> CompressionConfig:
        """What it is on a backbone of these facts when these layers reduce."""
        patches, rates = facts.at_size(self.side).num_patches, dict.fromkeys(layers, self.rate)
        reductions = from_stage_ratios(rates, patches, num_counted_prefix=1)
        return CompressionConfig("supervit", reductions, image_size=self.side)


@dataclass(frozen=True)
class SizesSpec:
    """How one model is trained for several sizes; by default as published, but for the length, the
    batch, where it starts, and what varies images and branches."""

    image_sizes: tuple[int, ...] = (128, 160, 192)
    """Sides in pixels, beside the model's own; multiples of its patch size."""
    rates: tuple[float, ...] = (0.5, 0.7)
    """Of the pruned subnets, see `SizedSubnet`."""
    layers: tuple[int, ...] = (3, 6, 9)
    """Reduction layers."""
    steps: int = 1000
    batch_size: int = 16
    lr: float = 5e-4
    """The highest, for 512 images a step; the batch's share of it is taken."""
    final_lr: float = 1e-5
    """Where the cosine ends, at most the highest."""
    warmup: float = 5 / 300
    """Share of the steps in which the rate rises."""
    weight_decay: float = 0.05
    clip_norm: float = 0.0
    """Highest norm of a step's gradients, all four together; 0 for none."""
    augment: str = "crop-flip"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("image_sizes", "rates", "layers"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
            if not getattr(self, name):
                raise ConfigError(f"{name} is empty; give at least one")
        for name in ("steps", "batch_size", "lr"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0, got {getattr(self, name)}")
        wrong = [rate for rate in self.rates if not 0 < rate < 1]
        if wrong:
            raise ConfigError(f"rates must lie between 0 and 1, got {wrong[0]}")
        check_seed(self.seed)
        check_augment(self.augment)

    def subnets(self, step: int) -> tuple[SizedSubnet, ...]:
        """The four of a step, each pruned one after the whole one that teaches it."""
        draws = np.random.default_rng([self.seed, _SUBNETS, step])
        first, second = (float(rate) for rate in draws.choice(self.rates, size=2))
        side = int(draws.choice(self.image_sizes))
        pairs = ((None, 1.0), (None, first), (side, 1.0), (side, second))
        return tuple(SizedSubnet(side, rate) for side, rate in pairs)

    def rate_at(self, step: int) -> float:
        """The learning rate of a step: a rise, then a cosine."""
        highest = self.lr * self.batch_size / LR_IMAGES
        progress = (step + 0.5) / self.steps
        if progress < self.warmup:
            return highest * progress / self.warmup
        share = (progress - self.warmup) / (1.0 - self.warmup)
        lowest = min(self.final_lr, highest)
        return lowest + (highest - lowest) * 0.5 * (1.0 + math.cos(math.pi * share))


def subnet_losses(
    backbone: Backbone,
    subnets: Iterable[SizedSubnet],
    images: Tensor,
    labels: Tensor,
    *,
    layers: Iterable[int],
) -> Iterator[tuple[Tensor, Tensor]]:
    """(logits (B, classes), loss) of one subnet after another, of images at the full size.

    A whole one has the cross-entropy with the labels (B,); a pruned one its distance from the whole
    one before it. Each is run when it is asked for, so that the graphs need not live together.
    """
    taught: Tensor | None = None
    for subnet in subnets:
        model = compress_backbone(backbone, subnet.config(backbone.facts, layers))
        logits: Tensor = model(images).float()
        if subnet.rate < 1:
            assert taught is not None, "a whole subnet comes first"
            loss = self_distillation(logits, taught)
        else:
            loss, taught = F.cross_entropy(logits, labels), logits.detach()
        yield logits, loss


def train_at_sizes(
    backbone: Backbone,
    data: DataSource,
    spec: SizesSpec,
    *,
    on_step: Callable[[int, float], None] | None = None,
) -> Backbone:
    """A trained copy of a backbone, in evaluation mode, with a position table for every size.

    Args:
        backbone: A plain ViT of timm, at its own image size; it is not changed.
        data: Labelled training images.
        on_step: Told of every step's number and the mean of its four losses.

    Raises:
        ConfigError: a size or a layer that the backbone does not have, or no classifier.
        DataError: there are no images, or no labels.
        UnsupportedBackbone: it cannot hold position tables for several sizes.
        Diverged: a loss, or a step's gradient, is no number.
    """
    _check(backbone, data, spec)
    own = student_of(backbone, CompressionConfig()).backbone
    add_size_tables(own, spec.image_sizes)
    optimizer = torch.optim.AdamW(decay_groups(own, spec.weight_decay), lr=spec.lr)
    order = BatchOrder(data, spec.seed, spec.batch_size, len(data))
    device = next(own.parameters()).device
    with torch.random.fork_rng(devices=[]):
        for step in range(spec.steps):
            seed_streams(spec.seed * 1_000_003 + step, device)  # dropout, drop path
            images, labels = data.batch(order.indices(step))
            assert labels is not None
            images = augmented(images, spec.augment, augmentation_draws(spec.seed, step))
            for group in optimizer.param_groups:
                group["lr"] = spec.rate_at(step)
            images, labels = sent(images, device), labels.to(device)
            loss = _step(own.train(), optimizer, images, labels, step, spec)
            if on_step is not None:
                on_step(step, loss)
    return own.eval()


def _check(backbone: Backbone, data: DataSource, spec: SizesSpec) -> None:
    facts = backbone.facts
    if not facts.num_classes:
        raise ConfigError(
            f"backbone '{facts.name}' has no classifier, and its sizes learn from labels; give one"
            " with a head"
        )
    beyond = [layer for layer in spec.layers if not 0 <= layer < facts.num_blocks]
    if beyond:
        raise ConfigError(
            f"layer {beyond[0]} cannot reduce: backbone '{facts.name}' has {facts.num_blocks}"
            f" blocks (0-{facts.num_blocks - 1}); give other layers"
        )
    if len(data) == 0:
        raise DataError(f"data '{data.name}' has no training images; give at least one")
    if not data.labelled:
        raise DataError(
            f"data '{data.name}' has no labels that the model knows, and its sizes learn from"
            " labels; give labelled images"
        )


def _step(
    backbone: Backbone,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    step: int,
    spec: SizesSpec,
) -> float:
    """The mean of a step's losses, which the weights now learned from."""
    optimizer.zero_grad(set_to_none=True)
    losses = []
    found = subnet_losses(backbone, spec.subnets(step), images, labels, layers=spec.layers)
    for _, loss in found:
        loss.backward()
        losses.append(loss.item())
    mean = sum(losses) / len(losses)
    norm = torch.nn.utils.clip_grad_norm_(backbone.parameters(), spec.clip_norm or math.inf)
    if not (math.isfinite(mean) and bool(torch.isfinite(norm))):
        raise Diverged(f"training diverged at step {step}; try a lower lr than {spec.lr:g}")
    optimizer.step()
    return mean
