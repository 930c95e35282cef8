"""Training a supernet by a recipe: the loop, its log, its checks; resumable to the bit."""

from __future__ import annotations

import csv
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autotok.backbones.supernet import SupernetView
from autotok.backbones.supernet_file import save_supernet
from autotok.errors import RunDirectoryError
from autotok.evaluation.data import DataSource
from autotok.files import replacing

from .batches import Batches, held_out, training_batches
from .checkpoint import TrainingState, fresh_state, restore_state, save_state
from .judge import score_subnet
from .recipe import Recipe, Stage
from .recipe_file import load_recipe
from .steps import train_step

log = logging.getLogger(__name__)
REPORT_EVERY, VAL_SEED = 20, 1
CHECKPOINT, LOG = "checkpoint.pt", "log.csv"
COLUMNS = (
    "stage",
    "step",
    "seconds",
    "loss",
    "train_top1_pct",
    "lr",
    "images_per_s",
    "val_top1_pct",
)


@dataclass(frozen=True)
class Progress:
    """What the training reports every few steps."""

    step: int
    steps: int
    stage: str
    loss: float
    train_top1_pct: float
    images_per_s: float


Window = list[tuple[float, float, int, float]]
"""Loss, share of correct images, images and seconds of the steps since the last report."""


def train_from_recipe(
    path: Path,
    output: Path,
    *,
    resume: bool = False,
    device: str = "cpu",
    progress: Callable[[Progress], None] | None = None,
) -> Path:
    """Train by a recipe into `output`; returns the weight file (half precision).

    Writes `log.csv`, `checkpoint.pt` every `val_every` steps, and `BACKBONE.safetensors`. With
    `resume` it goes on from the checkpoint.

    Raises:
        ConfigError, DataError: the recipe, or the data it names, cannot be used.
        CheckpointError: there is nothing to resume, or it belongs to another recipe.
        RunDirectoryError: the folder holds a training already and `resume` was not given.
    """
    _check_unused(output, resume)
    recipe = load_recipe(path)
    state = fresh_state(recipe, device)
    view = SupernetView(state.ema, recipe.default, name=recipe.backbone)
    batches = training_batches(recipe, view)
    held: DataSource | None = None
    if recipe.val_images:
        held = held_out(recipe, view, recipe.val_images, VAL_SEED)
    _open_folder(state, recipe, output, resume)
    _loop(state, recipe, batches, lambda: _check(view, recipe, held), output, progress)
    weights = output / f"{recipe.backbone}.safetensors"
    save_supernet(state.ema, weights, name=recipe.backbone, default=recipe.default)
    return weights


def _loop(
    state: TrainingState,
    recipe: Recipe,
    batches: Batches,
    check: Callable[[], float | None],
    output: Path,
    progress: Callable[[Progress], None] | None,
) -> None:
    """Every step that is left, with reports, checks and checkpoints where they fall due."""
    started = time.perf_counter() - state.seconds
    window: Window = []
    while state.step < recipe.steps:
        stage, lr = recipe.locate(state.step)[0], recipe.lr_at(state.step)
        began = time.perf_counter()
        loss, correct = train_step(state, recipe, batches)
        window.append((loss, correct, stage.batch_size, time.perf_counter() - began))
        state.step += 1
        state.seconds = time.perf_counter() - started
        ends = state.step == recipe.steps or recipe.locate(state.step)[1] == 0
        due = state.step % recipe.val_every == 0 or ends
        if due or state.step % REPORT_EVERY == 0:
            report = _report(state, recipe, stage, window)
            window = []
            val = check() if due else None
            _log_row(output / LOG, state, lr, report, val)
            if progress is not None:
                progress(report)
        if due:
            save_state(state, recipe, output / CHECKPOINT)


def _check_unused(output: Path, resume: bool) -> None:
    """Refuse to train over what is there."""
    if not resume and (output / CHECKPOINT).exists():
        raise RunDirectoryError(
            f"'{output}' holds a training already; go on with --resume, or choose another folder"
        )


def _open_folder(state: TrainingState, recipe: Recipe, output: Path, resume: bool) -> None:
    """Restore what is to be resumed, or make the folder."""
    checkpoint = output / CHECKPOINT
    if resume:
        restore_state(state, recipe, checkpoint)
        _cut_log(output / LOG, state.step)
        return
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunDirectoryError(
            f"'{output}' cannot be written ({error.strerror or error}); choose another folder"
        ) from error
    (output / LOG).unlink(missing_ok=True)


def _cut_log(path: Path, step: int) -> None:
    """Take out the rows of steps after the checkpoint, which will be made again."""
    if not path.exists():
        return
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = list(csv.reader(file)) or [list(COLUMNS)]
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        kept = [row for row in rows if len(row) == len(header) and int(row[1]) <= step]
        csv.writer(file).writerows([header, *kept])


def _check(view: SupernetView, recipe: Recipe, data: DataSource | None) -> float | None:
    """Held-out top-1 in percent of the default subnet on the averaged weights."""
    if data is None:
        return None
    return score_subnet(view, data, recipe.val_images, label="default").top1_pct


def _report(state: TrainingState, recipe: Recipe, stage: Stage, window: Window) -> Progress:
    loss, correct, images, seconds = (np.array(column) for column in zip(*window, strict=True))
    return Progress(
        step=state.step,
        steps=recipe.steps,
        stage=stage.name,
        loss=float(loss.mean()),
        train_top1_pct=100.0 * float(correct.mean()),
        images_per_s=float(images.sum() / seconds.sum()),
    )


def _log_row(
    path: Path, state: TrainingState, lr: float, report: Progress, val: float | None
) -> None:
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(COLUMNS)
        row = [report.stage, state.step, f"{state.seconds:.0f}", f"{report.loss:.4f}"]
        row += [f"{report.train_top1_pct:.1f}", f"{lr:.2e}"]
        row += [f"{report.images_per_s:.1f}", "" if val is None else f"{val:.1f}"]
        writer.writerow(row)
    log.info("%s", ", ".join(f"{k} {v}" for k, v in zip(COLUMNS, row, strict=True) if v))
