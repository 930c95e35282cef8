"""Cost of methods whose token counts differ from image to image: counted on images."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autotok.backbones.base import Backbone, evaluating
from autotok.compression.calibrate import calibrate_thresholds
from autotok.compression.compress import reconfigured
from autotok.compression.exit_scores import ExitScores, score_exits
from autotok.compression.model import CompressedViT
from autotok.compression.schedule import is_adaptive
from autotok.compression.tap_request import TapRequest
from autotok.compression.two_pass import TwoPassViT
from autotok.config import CompressionConfig
from autotok.methods.registry import get_method
from autotok.tokens import Tokens

from .exit_costs import measured_exit_macs, ran_counts
from .image_costs import ImageCosts
from .macs import cost, counted_macs
from .two_pass import pass_costs

# each finds all thresholds anew, at counts lowered by what the one before cost too much
_ROUNDS = 4


class Metered(nn.Module):
    """A model that notes what each image of its last batch cost, by the tokens that really ran."""

    def __init__(self, model: CompressedViT) -> None:
        super().__init__()
        self.model, self.config = model, model.config
        self.image_costs: ImageCosts | None = None
        self.training = model.training  # who restores this mode restores the model's

    @property
    def backbone(self) -> Backbone:
        """The model's own."""
        return self.model.backbone

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes), the model's own."""
        if isinstance(self.model, TwoPassViT):
            answer = self.model.answer(images)
            self.image_costs = pass_costs(self.model, answer.refined)
            return answer.logits
        if self.model.exits is not None:
            scores = score_exits(self.model, images)
            number, answers = scores.chosen(self.model)
            self.image_costs = _stopped_costs(self.model, scores, number)
            return answers
        return self.backbone.readout(self.forward_tokens(images))

    def forward_tokens(self, images: Tensor, *, trace: bool = False) -> Tokens:
        """The model's own, see `CompressedViT.forward_tokens`."""
        watch = _watch(self.model)
        tokens = self.model.forward_tokens(images, trace=trace, watch=watch)
        self.image_costs = _costs(self.model, watch)
        return tokens


def metered(model: CompressedViT) -> nn.Module:
    """The model as it is to be judged: `Metered` where images cost different amounts."""
    costly = model.exits is not None or is_adaptive(model.config)
    return Metered(model) if costly else model


@torch.no_grad()
def image_costs(model: CompressedViT, images: Tensor) -> ImageCosts:
    """What each of the images (B, channels, height, width) costs, by the token counts it had.

    Padding costs nothing here: it is what a batch adds, not what the method needs.
    """
    watch, images = _watch(model), images.to(next(model.parameters()))
    with evaluating(model):  # training masks tokens and removes none
        if isinstance(model, TwoPassViT):
            return pass_costs(model, model.answer(images).refined)
        model.forward_tokens(images, watch=watch)
    return _costs(model, watch)


def _watch(model: CompressedViT) -> TapRequest:
    return TapRequest(counting=True, with_padding=not is_adaptive(model.config))


def _costs(model: CompressedViT, watch: TapRequest) -> ImageCosts:
    counts, facts = ran_counts(model, watch), model.backbone.facts
    macs, macs_noattn = counted_macs(facts, get_method(model.config.method), model.config, counts)
    return ImageCosts(macs, macs_noattn, np.hstack([counts.attention, counts.readout[:, None]]))


def _stopped_costs(model: CompressedViT, scores: ExitScores, number: Tensor) -> ImageCosts:
    """Costs of images that stop at exits `number` (B,), -1 for none."""
    assert model.exits is not None
    macs, macs_noattn = measured_exit_macs(model, scores)
    layers, blocks = model.exits.policy.layers, model.backbone.facts.num_blocks
    at, rows = _plain(number), np.arange(len(number))
    tokens = _costs(model, scores.watch).tokens
    ran = np.array([*(layer + 1 for layer in layers), blocks + 1])[at]
    tokens = tokens * (np.arange(blocks + 1) < ran[:, None])
    stopped = np.bincount(at % (len(layers) + 1), minlength=len(layers) + 1)
    return ImageCosts(macs[rows, at], macs_noattn[rows, at], tokens, tuple(stopped.tolist()))


def calibrated_within(model: CompressedViT, images: Tensor) -> CompressedViT:
    """The model under thresholds found on images (B, channels, height, width): each reduction
    layer keeps its nominal number of patch tokens on average, fewer where the mean cost would
    otherwise exceed that of the nominal numbers.

    The amounts in its configuration stay; the thresholds stand beside them.
    """
    facts, asked = model.backbone.facts, model.schedule.kept
    allowed = cost(facts, model.config).macs
    least = cost(facts, _keeping(model.config, [1] * len(asked))).macs
    share, trial = 1.0, model
    for _ in range(_ROUNDS):
        keep = [max(1, math.floor(share * count)) for count in asked]
        trial = reconfigured(model, _keeping(model.config, keep))
        found = calibrate_thresholds(trial, images)
        high = image_costs(trial, images).high
        if high <= allowed or max(keep) == 1:
            break
        # a little below: counts are whole, and thresholds hold on average only
        share *= 0.98 * (allowed - least) / (high - least)
    reductions = tuple(
        dataclasses.replace(old, options=new.options)
        for old, new in zip(model.config.reductions, found.reductions, strict=True)
    )
    return reconfigured(trial, dataclasses.replace(model.config, reductions=reductions))


def _keeping(config: CompressionConfig, keep: list[int]) -> CompressionConfig:
    """The configuration with other counts."""
    reductions = tuple(
        dataclasses.replace(old, keep_ratio=None, num_keep=count)
        for old, count in zip(config.reductions, keep, strict=True)
    )
    return dataclasses.replace(config, reductions=reductions)


def _plain(counts: Tensor) -> NDArray[np.int64]:
    return counts.cpu().numpy().astype(np.int64)
