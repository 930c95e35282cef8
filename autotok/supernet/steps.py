"""One optimiser step on the shared weights: its subnets, its losses, its averages."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotok.backbones.supernet import AutoFormerSupernet, SupernetView
from autotok.config import SubnetSpec
from autotok.errors import Diverged
from autotok.methods.losses import self_distillation

from .batches import Batch, Batches
from .checkpoint import TrainingState
from .live_tokens import forward_live
from .recipe import Distill, Recipe
from .sampling import draw_subnets


def train_step(state: TrainingState, recipe: Recipe, batches: Batches) -> tuple[float, float]:
    """Mean loss and mean share of correct images over the step's subnets.

    Raises:
        Diverged: the loss or its gradient is no number; no weight was changed by this step.
    """
    stage = recipe.locate(state.step)[0]
    rng = np.random.default_rng([recipe.seed, state.step])
    subnets = draw_subnets(recipe.spec, recipe.default, stage, rng)
    for group in state.optimizer.param_groups:
        group["lr"] = recipe.lr_at(state.step)
    batch = batches.batch(state.step, rng).to(state.device)
    state.optimizer.zero_grad(set_to_none=True)
    loss, correct = add_gradients(state.supernet, recipe, subnets, batch)
    norm = nn.utils.clip_grad_norm_(state.supernet.parameters(), recipe.clip_norm)
    if not (math.isfinite(loss) and bool(torch.isfinite(norm))):
        what = "its gradient is no number" if math.isfinite(loss) else f"loss {loss:g}"
        raise Diverged(
            f"supernet training diverged at step {state.step} ({what}); give stage '{stage.name}'"
            f" of the recipe a lower lr than {max(stage.lr):g}, and train into another folder"
        )
    state.optimizer.step()
    _update_ema(state, recipe)
    return loss, correct


def add_gradients(
    supernet: AutoFormerSupernet, recipe: Recipe, subnets: tuple[SubnetSpec, ...], batch: Batch
) -> tuple[float, float]:
    """Mean loss and accuracy of the subnets, whose gradients are now added to the weights'."""
    largest = recipe.spec.largest()
    teacher: Tensor | None = None
    losses, hits = [], []
    if recipe.distill is not None and subnets[0] != largest:
        with torch.no_grad():
            teacher = _logits(supernet, largest, recipe, batch)
    for subnet in subnets:
        logits = _logits(supernet, subnet, recipe, batch)
        taught = recipe.distill is not None and subnet != largest
        loss = subnet_loss(
            logits,
            batch.labels,
            label_smoothing=recipe.label_smoothing,
            distill=recipe.distill if taught else None,
            teacher=teacher,
        )
        loss.backward()
        if recipe.distill is not None and teacher is None:
            teacher = logits.detach()
        losses.append(loss.item())
        hits.append((logits.argmax(dim=-1) == batch.labels).float().mean().item())
    return float(np.mean(losses)), float(np.mean(hits))


def subnet_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    label_smoothing: float,
    distill: Distill | None = None,
    teacher: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of logits (B, classes), mixed with distillation where there is a teacher."""
    logits = logits.float()
    if distill is None or teacher is None:
        return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    soft = self_distillation(logits, teacher, temperature=distill.temperature)
    loss = distill.weight * soft
    if distill.weight < 1.0:
        hard = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
        loss = loss + (1.0 - distill.weight) * hard
    return loss


def _logits(
    supernet: AutoFormerSupernet, subnet: SubnetSpec, recipe: Recipe, batch: Batch
) -> Tensor:
    """(B, classes) of one subnet in training mode."""
    view = SupernetView(supernet, subnet).train()
    with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=recipe.bf16):
        if batch.index is None or batch.size is None:
            logits: Tensor = view(batch.images)
            return logits
        return forward_live(view, batch.images, batch.index, batch.size)


@torch.no_grad()
def _update_ema(state: TrainingState, recipe: Recipe) -> None:
    decay = min(recipe.ema_decay, (1 + state.step) / (10 + state.step))
    for mean, value in zip(state.ema.parameters(), state.supernet.parameters(), strict=True):
        mean.lerp_(value, 1.0 - decay)
