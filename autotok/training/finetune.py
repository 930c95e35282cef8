"""Fine-tuning one compressed model: steps, checkpoints, what stops it.

Everything random is a function of (seed, step): which images, how they are varied, dropout. So a
fine-tune that was killed and started again with its checkpoint ends, on CPU, with the same bits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autotok.compression.model import CompressedViT
from autotok.config import FineTuneSpec
from autotok.errors import DataError, Diverged
from autotok.evaluation.augment import augmented, check_augment
from autotok.evaluation.data import DataSource
from autotok.methods.learning import TrainingRecipe, recipe_of
from autotok.methods.registry import get_method

from .batches import BatchOrder, augmentation_draws, data_identity
from .checkpoint import read_checkpoint, write_checkpoint
from .distill import Teacher, TrainingObjective, check_losses, reducers_of
from .precision import chunk_size, resolve_precision
from .schedule import TrainingPlan, make_optimizer, make_schedule, set_lr, training_plan
from .student import weights_identity

__all__ = ["FineTuneProgress", "FineTuned", "check_spec", "finetune_student"]

CHECKPOINT_EVERY_S = 30.0
WINDOW = 10
"""Steps whose mean loss is compared with the first ones' to notice divergence."""


@dataclass(frozen=True)
class FineTuned:
    """What a fine-tune did."""

    steps: int
    images: int
    seconds: float
    loss: float
    """Mean over the last tenth of the steps."""
    images_per_s: float
    precision: str


@dataclass(frozen=True)
class FineTuneProgress:
    """Where a fine-tune stands after a step."""

    step: int
    steps: int | None
    """None where the length is given in minutes."""
    progress: float
    """0 to 1."""
    loss: float
    """Mean over the last steps."""
    lr: float
    images_per_s: float
    """Since this process started it."""
    seconds_left: float


@dataclass
class _Run:
    """Everything a fine-tune works on; `step`, `images`, `seconds` and `losses` are its past."""

    student: CompressedViT
    objective: TrainingObjective
    optimizer: torch.optim.AdamW
    data: DataSource
    spec: FineTuneSpec
    plan: TrainingPlan
    order: BatchOrder
    chunk: int
    ema: list[Tensor] | None
    step: int = 0
    images: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        return self.plan.finished(self.step, self.seconds)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained: the student's weights, then the objective's."""
        return [*self.student.parameters(), *self.objective.parameters()]


def finetune_student(
    student: CompressedViT,
    data: DataSource,
    spec: FineTuneSpec,
    *,
    teacher: Teacher | None,
    checkpoint: Path | None = None,
    on_progress: Callable[[FineTuneProgress], None] | None = None,
    precision: str = "auto",
    checkpoint_every_s: float = CHECKPOINT_EVERY_S,
) -> FineTuned:
    """Train a student in place; it is left in evaluation mode, with the averaged weights if any.

    Args:
        student: From `student_of`, in the state it was made in, also when resuming.
        data: Training images.
        teacher: The uncompressed model; None where no loss needs one.
        checkpoint: File to go on from if it exists, and to write every so often and at the end.
        precision: 'auto', 'bf16' or 'float32'; a resumed fine-tune keeps its own under 'auto'.

    Raises:
        ConfigError, UnknownName: the spec cannot be used here; said before anything is trained.
        CheckpointError: the checkpoint is damaged or belongs to another fine-tune.
        RunDirectoryError: the checkpoint cannot be written.
        Diverged: the loss is no number, or its mean over 10 steps is more than twice its mean over
            the first 10 plus 1 per unit of loss weight.
    """
    check_spec(student, spec, teacher, data)
    device = next(student.parameters()).device
    identity: dict[str, Any] = {
        "config": student.config.to_dict(),
        "spec": spec.to_dict(),
        "data": data_identity(data),
        "precision": None if precision == "auto" else precision,
    }
    resolved = resolve_precision(precision, device)
    identity["weights"] = weights_identity(student)
    identity["teacher"] = None if teacher is None else teacher.identity()
    found = None if checkpoint is None else read_checkpoint(checkpoint, identity)
    identity["precision"] = resolved if found is None else found["identity"]["precision"]
    run = _start(student, data, spec, teacher, identity["precision"], found)
    with torch.inference_mode(False), torch.enable_grad(), _own_randomness(device):
        _train(run, checkpoint, identity, checkpoint_every_s, on_progress)
    _finish(run)
    return FineTuned(
        steps=run.step,
        images=run.images,
        seconds=run.seconds,
        loss=_mean(run.losses[-max(1, math.ceil(len(run.losses) / 10)) :]),
        images_per_s=run.images / max(run.seconds, 1e-9),
        precision=identity["precision"],
    )


def check_spec(
    student: CompressedViT, spec: FineTuneSpec, teacher: Teacher | None, data: DataSource
) -> None:
    """Raise unless this student can be trained by this spec on this data.

    Raises:
        ConfigError, UnknownName: an augmentation or a loss cannot be used.
        DataError: there are no images.
    """
    if len(data) == 0:
        raise DataError(f"data '{data.name}' has no training images; give at least one")
    check_augment(spec.augment)
    check_losses(student, spec, teacher, data)


def _own_randomness(device: torch.device) -> Any:
    """A context that leaves the caller's random state as it was."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def _start(
    student: CompressedViT,
    data: DataSource,
    spec: FineTuneSpec,
    teacher: Teacher | None,
    precision: str,
    found: dict[str, Any] | None,
) -> _Run:
    """A fresh run, or the one that a checkpoint holds."""
    device = next(student.parameters()).device
    if _recipe(student).backbone_lr == 0:
        student.backbone.requires_grad_(False)
    objective = TrainingObjective(student, spec, teacher, data, precision).to(device)
    num_images = len(data) if found is None else int(found["num_images"])
    order = BatchOrder(data, spec.seed, spec.batch_size, num_images)
    run = _Run(
        student=student,
        objective=objective,
        optimizer=make_optimizer(spec, _recipe(student), student, objective),
        data=data,
        spec=spec,
        plan=training_plan(spec, order.per_epoch),
        order=order,
        chunk=chunk_size(student.backbone.facts, precision, device),
        ema=None,
    )
    if found is not None:
        student.load_state_dict(found["student"])
        objective.load_state_dict(found["objective"])
        run.optimizer.load_state_dict(found["optimizer"])
        run.step, run.images = int(found["step"]), int(found["images"])
        run.seconds, run.losses = float(found["seconds"]), list(found["losses"])
    if spec.ema_decay > 0:
        past = student.parameters() if found is None else found["ema"]
        run.ema = [value.detach().clone().to(device) for value in past]
    return run


def _recipe(student: CompressedViT) -> TrainingRecipe:
    method = get_method(student.config.method)
    return recipe_of(method, method.resolve_options(student.config.options))


def _train(
    run: _Run,
    checkpoint: Path | None,
    identity: dict[str, Any],
    every_s: float,
    on_progress: Callable[[FineTuneProgress], None] | None,
) -> None:
    """Steps until the plan is fulfilled; the checkpoint always holds whole steps."""
    schedule = make_schedule(run.spec, run.optimizer)
    run.student.train()
    before = run.seconds, run.images
    reducers, frozen = reducers_of(run.student), _recipe(run.student).frozen_share
    if run.step == 0:
        _save(run, checkpoint, identity)  # a folder that cannot be written is found out at once
    began = saved = time.perf_counter()
    while not run.finished:
        progress = run.plan.middle(run.step, run.seconds)
        lr = set_lr(schedule, run.optimizer, progress, frozen_share=frozen)
        run.objective.progress = progress
        for reducer in reducers:
            reducer.begin_step(progress)
        try:
            loss = _gradients(run)
        except KeyboardInterrupt:
            _save(run, checkpoint, identity)  # no weight was touched since the last step
            raise
        _check_finite(run, loss)
        _update(run)
        for reducer in reducers:
            reducer.end_step()
        run.losses.append(loss)
        run.step += 1
        now = time.perf_counter()
        run.seconds = before[0] + now - began
        _check_divergence(run)
        if now - saved >= every_s or run.finished:
            _save(run, checkpoint, identity)
            saved = time.perf_counter()
        if on_progress is not None:
            rate = (run.images - before[1]) / max(now - began, 1e-9)
            on_progress(_report(run, lr, rate))


def _gradients(run: _Run) -> float:
    """The loss of the next step; gradients are accumulated over its batches, chunk by chunk."""
    spec = run.spec
    run.optimizer.zero_grad(set_to_none=True)
    total, images_done = 0.0, 0
    for part in range(spec.accumulate):
        number = run.step * spec.accumulate + part
        torch.manual_seed(_stream(spec.seed, number))  # dropout
        indices = run.order.indices(number)
        images, labels = run.data.batch(indices)
        images = augmented(images, spec.augment, augmentation_draws(spec.seed, number))
        for first in range(0, len(indices), run.chunk):
            chosen = slice(first, first + run.chunk)
            share = len(indices[chosen]) / (len(indices) * spec.accumulate)
            loss = share * _loss(run, images[chosen], labels, indices, chosen)
            loss.backward()
            total += loss.item()
        images_done += len(indices)
    run.images += images_done
    return total


def _loss(
    run: _Run, images: Tensor, labels: Tensor | None, indices: list[int], chosen: slice
) -> Tensor:
    device = next(run.student.parameters()).device
    own_labels = None if labels is None else labels[chosen].to(device)
    remembered = indices[chosen] if run.spec.augment == "none" else None
    loss: Tensor = run.objective(run.student, images.to(device), own_labels, remembered)
    return loss


def _stream(seed: int, number: int) -> int:
    """A 63-bit seed for one batch."""
    return (seed * 1_000_003 + number * 7_919 + 17) % 2**63


def _update(run: _Run) -> None:
    """One optimiser step on the gradients at hand, and the running average."""
    run.optimizer.step()
    if run.ema is None:
        return
    decay = min(run.spec.ema_decay, (1 + run.step) / (10 + run.step))
    with torch.no_grad():
        for mean, value in zip(run.ema, run.student.parameters(), strict=True):
            mean.lerp_(value, 1.0 - decay)


def _check_finite(run: _Run, loss: float) -> None:
    """Clip the gradients; raise `Diverged` where loss or gradients are not numbers."""
    limit = run.spec.clip_norm or math.inf
    norm = nn.utils.clip_grad_norm_(run.parameters, limit)
    if not math.isfinite(loss) or not bool(torch.isfinite(norm)):
        what = f"loss {loss:g}" if not math.isfinite(loss) else "its gradient is no number"
        raise Diverged(
            f"fine-tuning diverged at step {run.step + 1} ({what}); try a lower lr than"
            f" {run.spec.lr:g}, or a longer warm-up"
        )


def _check_divergence(run: _Run) -> None:
    """Raise `Diverged` where the last steps' mean loss is far above that of the first ones."""
    if len(run.losses) < 2 * WINDOW:
        return
    start, now = _mean(run.losses[:WINDOW]), _mean(run.losses[-WINDOW:])
    if now > 2.0 * start + sum(run.spec.losses.values()):
        raise Diverged(
            f"fine-tuning diverged at step {run.step} (loss {now:.3g}, at the start {start:.3g});"
            f" try a lower lr than {run.spec.lr:g}, or a longer warm-up"
        )


def _save(run: _Run, path: Path | None, identity: dict[str, Any]) -> None:
    if path is None:
        return
    state = {
        "student": run.student.state_dict(),
        "objective": run.objective.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "ema": run.ema,
        "step": run.step,
        "images": run.images,
        "seconds": run.seconds,
        "losses": run.losses,
        "num_images": run.order.num_images,
    }
    write_checkpoint(path, identity, state)


def _report(run: _Run, lr: float, rate: float) -> FineTuneProgress:
    progress = run.plan.progress(run.step, run.seconds)
    left = run.seconds * (1.0 - progress) / max(progress, 1e-9)
    loss = _mean(run.losses[-WINDOW:])
    return FineTuneProgress(run.step, run.plan.steps, progress, loss, lr, rate, left)


@torch.no_grad()
def _finish(run: _Run) -> None:
    """Evaluation mode, averaged weights, no gradients left behind."""
    run.optimizer.zero_grad(set_to_none=True)
    if run.ema is not None:
        for mean, value in zip(run.ema, run.student.parameters(), strict=True):
            value.copy_(mean)
    run.student.eval()
    run.student.deploy()


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
