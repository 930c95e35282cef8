"""What a model says once, in the log, of what who runs it may not expect."""

from __future__ import annotations

from autotok.backbones.base import Backbone
from autotok.config import CompressionConfig

from .schedule import needs_calibration


def silent_hooks(backbone: Backbone) -> str:
    """That hooks on what is never called stay silent, and what to use; "" where there are none."""
    for name, part in backbone.unused():
        if part._forward_hooks or part._forward_pre_hooks or part._backward_hooks:
            return (
                f"hooks on {name} of '{backbone.facts.name}' never fire: its parts are run one by"
                " one; take tokens and attention with forward_tokens(images,"
                " watch=TapRequest(...)) of autotok.compression.model, or hook a part, such as"
                " blocks.0.mlp"
            )
    return ""


def missing_thresholds(config: CompressionConfig) -> str:
    """That images keep other counts than the schedule's, and how to find the thresholds that meet
    these; "" where none are missing, or training left them."""
    if config.mode == "retrain" or not needs_calibration(config):
        return ""
    return (
        f"method '{config.method}' is given amounts and no thresholds, so images keep other numbers"
        " of tokens than the schedule says; find thresholds that meet it with"
        " autotok.compression.calibrate.calibrate_thresholds(model, images), or with"
        " autotok.evaluate, which finds them first"
    )
