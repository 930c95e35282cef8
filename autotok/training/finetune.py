"""Fine-tuning one compressed model: its rate, its steps, its checkpoints, what is handed over.

Everything random is a function of (seed, step): which images, how they are varied, dropout. So a
fine-tune that was killed and started again with its checkpoint ends, on CPU, with the same bits.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from autotok.compression.model import CompressedViT
from autotok.errors import DataError, Diverged
from autotok.evaluation.data import DataSource
from autotok.export.weights import weights_identity
from autotok.finetune_spec import FineTuneSpec
from autotok.methods.base import Training
from autotok.methods.learning import TrainingRecipe
from autotok.methods.registry import get_method

from .batches import BatchOrder, data_identity
from .checkpoint import read_checkpoint, restore, state_of, write_checkpoint
from .distill import TrainingObjective, check_losses
from .finetuned import FineTuned, FineTuneProgress
from .heldout import Best, HeldOut, held_out_indices, own_randomness, snapshot
from .precision import chunk_size, resolve_precision
from .probe import CAREFUL, USUAL, RateChoice, finite_loss
from .probing import find_rate
from .ranks import ALONE, Ranks
from .schedule import make_optimizer, training_plan
from .steps import (
    WINDOW,
    TrainingRun,
    apply_step,
    check_divergence,
    check_worse,
    mean,
    prepare_step,
    training_recipe,
)
from .teacher import Teacher
from .variation import StochasticDepth, Variation, check_variation

CHECKPOINT_EVERY_S = 30.0
MOST_CHECKS = 10
CHECKS_SHARE = 0.1
"""Of a fine-tune's effort, about what its checks on held-out images may cost."""
_LOG = logging.getLogger(__name__)


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
    ranks: Ranks = ALONE,
) -> FineTuned:
    """Train a student in place; it is left in evaluation mode, with the averaged weights if any.

    Args:
        student: From `student_of`, in the state it was made in, also when resuming.
        data: Training images.
        teacher: The uncompressed model; None where no loss needs one.
        checkpoint: File to go on from if it exists, and to write every so often and at the end.
        precision: 'auto', 'bfloat16' or 'float32'; a resumed fine-tune keeps its own under 'auto'.
        ranks: The processes that train this student together; all call this, the first writes.

    Of all states that are judged on held-out training images, the start among them, the best is
    left in the student. A rate that a probe found is lowered, and the fine-tune goes on from its
    best state, where the loss diverges.

    Raises:
        ConfigError, UnknownName: the spec cannot be used here; said before anything is trained.
        CheckpointError: the checkpoint is damaged or belongs to another fine-tune.
        RunDirectoryError: the checkpoint cannot be written.
        Diverged: at the rate that was given, the loss is no number, or its mean over 10 steps is
            more than twice that of the first 10, or of the first, plus 1 per unit of loss weight.
    """
    check_spec(student, spec, teacher, data)
    ranks.check_batch(_batch_size(spec, data))
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
    ranks.agreed(0.0)  # all have read before the first one writes
    checkpoint = checkpoint if ranks.first else None
    identity["precision"] = resolved if found is None else found["identity"]["precision"]
    began = time.perf_counter()
    with torch.inference_mode(False), torch.enable_grad(), own_randomness(device):
        if found is None:
            run = _fresh(student, data, spec, teacher, identity["precision"], ranks)
        else:
            run = _resumed(student, data, spec, teacher, found, ranks)
        _train(run, checkpoint, identity, checkpoint_every_s, on_progress, began - run.seconds)
    _finish(run)
    return _done(run, identity["precision"])


def check_spec(
    student: CompressedViT, spec: FineTuneSpec, teacher: Teacher | None, data: DataSource
) -> None:
    """Raise unless this student can be trained by this spec on this data.

    Raises:
        ConfigError, UnknownName: a variation of the images or a loss cannot be used.
        DataError: there are no images.
    """
    if len(data) == 0:
        raise DataError(f"data '{data.name}' has no training images; give at least one")
    check_variation(spec, data, _batch_size(spec, data))
    check_losses(student, spec, teacher, data)


def _batch_size(spec: FineTuneSpec, data: DataSource) -> int:
    """Images of a batch, of which there are no more than those that are trained on."""
    return min(spec.batch_size, len(data) - held_out_indices(data, spec.seed)[1])


def _fresh(
    student: CompressedViT,
    data: DataSource,
    spec: FineTuneSpec,
    teacher: Teacher | None,
    precision: str,
    ranks: Ranks,
) -> TrainingRun:
    """A run before its first step, with its rate."""
    began = time.perf_counter()
    indices, spared = held_out_indices(data, spec.seed)
    run = _built(student, data, spec, teacher, precision, indices, (spared, len(data) - spared))
    run.ranks = ranks
    run.best = Best(0, run.judged(), snapshot(student))
    run.checks.append((0, run.best.loss))
    if spec.lr is None:
        find_rate(run, began)
    run.start_averaging()
    return run


def _built(
    student: CompressedViT,
    data: DataSource,
    spec: FineTuneSpec,
    teacher: Teacher | None,
    precision: str,
    held_out: list[int],
    spared_and_trained: tuple[int, int],
) -> TrainingRun:
    """A run without a past."""
    device, recipe = next(student.parameters()).device, training_recipe(student)
    if recipe.backbone_lr == 0:
        student.backbone.requires_grad_(False)
    if "exits_distill" in spec.losses:
        student.requires_grad_(False)
        assert student.exits is not None
        student.exits.requires_grad_(True)
    facts = student.backbone.facts
    if spec.drop_path:
        student.thin = StochasticDepth(spec.drop_path, facts.num_blocks)
    objective = TrainingObjective(student, spec, teacher, data, precision).to(device)
    spared, trained = spared_and_trained
    order = BatchOrder(data, spec.seed, spec.batch_size, trained, skip=spared)
    lr = spec.lr or (USUAL if _starts_meaningless(student, recipe) else CAREFUL)
    known = dataclasses.replace(spec, lr=lr)
    return TrainingRun(
        student=student,
        objective=objective,
        data=data,
        spec=known,
        plan=training_plan(spec, order.per_epoch),
        order=order,
        variation=Variation(spec, student.backbone),
        chunk=chunk_size(facts, device),
        held_out=HeldOut(data, held_out, objective),
        optimizer=make_optimizer(known, recipe, student, objective),
        choice=RateChoice(lr, "given"),
        best=Best(0, math.inf, {}),
        probed=spec.lr is None,
    )


def _starts_meaningless(student: CompressedViT, recipe: TrainingRecipe) -> bool:
    """Whether there is more to learn than to lose."""
    required = get_method(student.config.method).training_need is Training.REQUIRED
    return required or recipe.backbone_lr < 1 or student.config.exits is not None


def _resumed(
    student: CompressedViT,
    data: DataSource,
    spec: FineTuneSpec,
    teacher: Teacher | None,
    found: dict[str, Any],
    ranks: Ranks,
) -> TrainingRun:
    """The run that a checkpoint holds."""
    precision, sizes = found["identity"]["precision"], (found["spared"], found["num_images"])
    run = _built(student, data, spec, teacher, precision, found["held_out"], sizes)
    run.ranks = ranks
    restore(run, found)
    return run


def _save(run: TrainingRun, path: Path | None, identity: dict[str, Any]) -> None:
    if path is not None:
        write_checkpoint(path, identity, state_of(run))


def _train(
    run: TrainingRun,
    checkpoint: Path | None,
    identity: dict[str, Any],
    every_s: float,
    on_progress: Callable[[FineTuneProgress], None] | None,
    began: float,
) -> None:
    """Steps until the plan is fulfilled; the checkpoint always holds whole steps."""
    if run.step == 0:
        _save(run, checkpoint, identity)  # a folder that cannot be written is found out at once
    here = saved = time.perf_counter()
    images, lr = run.images, run.choice.lr
    while not run.finished:
        try:
            try:
                lr, loss = prepare_step(run)
            except KeyboardInterrupt:
                _save(run, checkpoint, identity)  # no weight was touched since the last step
                raise
            apply_step(run, loss)
            run.seconds = run.ranks.agreed(time.perf_counter() - began)
            check_divergence(run)
            _check_if_due(run)
        except Diverged as error:
            if not run.probed or run.step == 0 or not math.isfinite(run.checks[0][1]):
                raise
            run.back_off(str(error))
            _LOG.info("learning rate %g from step %d: %s", run.spec.lr, run.step, error)
        now = time.perf_counter()
        if now - saved >= every_s or run.finished:
            _save(run, checkpoint, identity)
            saved = time.perf_counter()
        if on_progress is not None:
            on_progress(_report(run, lr, (run.images - images) / max(now - here, 1e-9)))


def _check_if_due(run: TrainingRun) -> None:
    """Judge on held-out images every so often and at the end.

    Raises:
        Diverged: a probed rate made them worse.
    """
    number = _checks(run)
    marks = int(run.plan.progress(run.step, run.seconds) * number + 1e-9)
    if marks > run.marks or run.finished:
        run.marks = marks
        run.judge()
        check_worse(run)


def _checks(run: TrainingRun) -> int:
    """How many checks a fine-tune affords, by forwards: three a trained image."""
    if run.plan.steps is None:
        return MOST_CHECKS
    trained = 3.0 * run.plan.steps * run.order.batch_size * run.spec.accumulate
    return min(MOST_CHECKS, max(1, int(CHECKS_SHARE * trained / len(run.held_out.indices))))


def _report(run: TrainingRun, lr: float, rate: float) -> FineTuneProgress:
    progress = run.plan.progress(run.step, run.seconds)
    left = run.seconds * (1.0 - progress) / max(progress, 1e-9)
    loss = mean(run.losses[-WINDOW:])
    return FineTuneProgress(run.step, run.plan.steps, progress, loss, lr, rate, left)


def _finish(run: TrainingRun) -> None:
    """Evaluation mode, the best state, no gradients left behind."""
    run.optimizer.zero_grad(set_to_none=True)
    run.student.load_state_dict(run.best.state)
    run.student.thin = None
    run.student.eval()
    run.student.deploy()


def _done(run: TrainingRun, precision: str) -> FineTuned:
    last = run.losses[-max(1, math.ceil(len(run.losses) / 10)) :]
    return FineTuned(
        steps=run.step,
        images=run.images,
        seconds=run.seconds,
        loss=mean(last),
        images_per_s=run.images / max(run.seconds, 1e-9),
        precision=precision,
        rate=run.choice,
        warmup_steps=math.ceil(run.spec.warmup * run.step),
        kept_step=run.best.step,
        held_out_images=len(run.held_out.indices),
        held_out=tuple((step, finite_loss(loss)) for step, loss in run.checks),
        back_offs=tuple(run.back_offs),
    )
