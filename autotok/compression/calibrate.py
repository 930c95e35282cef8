"""`calibrate_thresholds`: thresholds that keep the nominal number of tokens on average."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from autotok.backbones.base import evaluating
from autotok.config import CompressionConfig
from autotok.errors import ConfigError
from autotok.methods.registry import get_method
from autotok.methods.thresholds import Calibrated, trains_thresholds, with_thresholds

from .compress import reconfigured
from .model import CompressedViT
from .schedule import needs_calibration as needs_calibration

CALIBRATION_IMAGES = 32
"""As many as give steady quantiles of a few hundred tokens each."""


def needs_recalibration(config: CompressionConfig) -> bool:
    """Whether thresholds that training started from mean nothing after it; False where it learned
    them itself."""
    return needs_calibration(config) and not trains_thresholds(get_method(config.method))


def unsettled(config: CompressionConfig) -> CompressionConfig:
    """The configuration without the thresholds that calibration or training found: its amounts."""
    if not issubclass(get_method(config.method), Calibrated):
        return config
    amounts = tuple(
        r if r.num_keep is None and r.keep_ratio is None else dataclasses.replace(r, options={})
        for r in config.reductions
    )
    return dataclasses.replace(config, reductions=amounts)


def calibrated(model: CompressedViT, images: Tensor) -> CompressedViT:
    """The model under thresholds that meet its amounts on average, see `calibrate_thresholds`."""
    return reconfigured(model, calibrate_thresholds(model, images))


@torch.no_grad()
def calibrate_thresholds(model: CompressedViT, images: Tensor) -> CompressionConfig:
    """The model's configuration with thresholds under which each reduction layer keeps its nominal
    number of patch tokens on average over `images` (B, channels, height, width), wherever they are.

    The model keeps them as well, and says so in its own configuration. Layers are calibrated in
    one forward, each on what the earlier ones left.

    Raises:
        ConfigError: the method has no thresholds.
    """
    reducers = {int(k): r for k, r in model.reducers.items() if isinstance(r, Calibrated)}
    if not reducers:
        raise ConfigError(
            f"method '{model.config.method}' has no thresholds to calibrate; it keeps the counts"
            " that it is given"
        )
    like = next(model.parameters())
    for reducer in reducers.values():
        reducer.calibrating = True
    try:
        with evaluating(model):
            model.forward_tokens(images.to(like))
    finally:
        for reducer in reducers.values():
            reducer.calibrating = False
    model.config = with_thresholds(model.config, reducers)
    return model.config
