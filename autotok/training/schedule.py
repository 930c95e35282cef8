"""Optimiser, learning rate and length of a fine-tune; timm's grouping and cosine schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autotok.backbones.torchvision_shim import ensure_torchvision
from autotok.compression.model import CompressedViT
from autotok.finetune_spec import FineTuneSpec, Length
from autotok.methods.learning import TrainingRecipe

ensure_torchvision()

from timm.optim import param_groups_weight_decay  # noqa: E402
from timm.scheduler import CosineLRScheduler  # noqa: E402

BACKBONE = "backbone"
# timm's scheduler counts whole steps and a length may be minutes: both become shares of this
TICKS = 1_000_000
FINAL_LR = 0.01
"""Where the cosine ends, as a share of the highest learning rate."""
NOT_DECAYED = (
    "*pos_embed*", "*position_embedding*", "*.positions", "*_token", "*_tokens",
    "*relative_position_bias_table", "*rope.freqs",
    "*.key_rows", "*.key_columns", "*.value_rows", "*.value_columns",
)  # fmt: skip
"""Position tables, learned turns among them, and the tokens that stand before the patches or in
place of them, as timm, transformers, AutoFormer and CF-ViT call them."""


@dataclass(frozen=True)
class TrainingPlan:
    """When to stop: after `steps`, or after `seconds` where that is None."""

    steps: int | None
    seconds: float | None

    def progress(self, step: int, seconds: float) -> float:
        """Share done, 0 to 1, once `step` steps took `seconds`."""
        if self.steps is not None:
            return min(1.0, step / self.steps)
        assert self.seconds is not None
        return min(1.0, seconds / self.seconds)

    def middle(self, step: int, seconds: float) -> float:
        """Share done half-way through the next step, so that the first one already learns."""
        if self.steps is not None:
            return (step + 0.5) / self.steps
        return self.progress(step, seconds * (1.0 + 0.5 / step)) if step else 0.01

    def finished(self, step: int, seconds: float) -> bool:
        """No further step; there is at least one."""
        return step > 0 and self.progress(step, seconds) >= 1.0


def training_plan(spec: FineTuneSpec, batches_per_epoch: int) -> TrainingPlan:
    """The plan that a spec's length means on data of so many batches."""
    length = Length.parse(spec.length)
    if length.unit == "minutes":
        return TrainingPlan(None, 60.0 * length.amount)
    if length.unit == "epochs":
        batches = length.amount * batches_per_epoch
        return TrainingPlan(max(1, math.ceil(batches / spec.accumulate - 1e-9)), None)
    return TrainingPlan(int(length.amount), None)


def make_optimizer(
    spec: FineTuneSpec, recipe: TrainingRecipe, student: CompressedViT, *further: nn.Module
) -> torch.optim.AdamW:
    """AdamW; biases, norms, prefix tokens and position tables do not decay.

    The method's own parameters and the backbone learn at the recipe's multiples of the rate.
    """
    assert spec.lr is not None  # given, or found by a probe
    own = spec.weight_decay if recipe.reducer_decay is None else recipe.reducer_decay
    parts = [
        (student.backbone, spec.weight_decay, recipe.backbone_lr, BACKBONE),
        (student.reducers, own, recipe.reducer_lr, "method"),
        *([] if student.exits is None else [(student.exits, spec.weight_decay, 1.0, "exits")]),
        *((module, spec.weight_decay, 1.0, "objective") for module in further),
    ]
    groups = [
        {**group, "lr_scale": scale, "part": part}
        for module, decay, scale, part in parts
        for group in decay_groups(module, decay)
        if group["params"] and scale > 0
    ]
    return torch.optim.AdamW(groups, lr=spec.lr)


def decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """A module's weights as an optimiser's groups, those that do not decay apart."""
    groups: list[dict[str, Any]] = param_groups_weight_decay(
        module, weight_decay, True, NOT_DECAYED
    )
    return groups


def make_schedule(spec: FineTuneSpec, optimizer: torch.optim.Optimizer) -> CosineLRScheduler:
    """Linear warm-up from 0 and a cosine, over `TICKS` whatever the length."""
    assert spec.lr is not None
    warm = round(spec.warmup * TICKS)
    return CosineLRScheduler(
        optimizer,
        t_initial=max(2, TICKS - warm),
        lr_min=FINAL_LR * spec.lr,
        warmup_t=warm,
        warmup_prefix=True,
        t_in_epochs=False,
    )


def set_lr(
    schedule: CosineLRScheduler,
    optimizer: torch.optim.Optimizer,
    progress: float,
    *,
    frozen_share: float = 0.0,
) -> float:
    """The learning rate at a share of the whole, now set; 0 for a backbone that is still frozen."""
    schedule.step_update(min(TICKS - 1, int(progress * TICKS)))
    first = optimizer.param_groups[0]
    rate: float = first["lr"] / first["lr_scale"]
    if progress < frozen_share:
        for group in optimizer.param_groups:
            if group["part"] == BACKBONE:
                group["lr"] = 0.0
    return rate
