"""Fine-tuning one compressed model, judged before and after, handed over as a bundle."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from autotok.backbones.base import Backbone
from autotok.compression.calibrate import needs_calibration
from autotok.compression.compress import with_networks
from autotok.compression.model import CompressedViT
from autotok.config import CompressionConfig
from autotok.counting.macs import cost
from autotok.devices.placing import torch_device
from autotok.documents import parse_json
from autotok.errors import ConfigError, Diverged
from autotok.evaluation.accuracy import Evaluator, Quality
from autotok.evaluation.data import DataSource, check_data, load_data, told_of
from autotok.evaluation.preprocessing import preprocessing_of
from autotok.export.best_yaml import Bundle, write_best
from autotok.export.bundle import save_bundle
from autotok.files import write_text
from autotok.finetune_spec import FineTuneSpec
from autotok.plain_data import typed
from autotok.searching.running.judging import meeting_mean
from autotok.searching.running.model_worker import (
    QUANTISED_ON,
    calibrated_on,
    judged_tally,
    tuned,
)
from autotok.training import finetune as training
from autotok.training.finetune import check_spec
from autotok.training.finetuned import FineTuned, FineTuneProgress
from autotok.training.precision import resolve_precision
from autotok.training.ranks import joined_ranks, own_device
from autotok.training.recipes import list_recipes, recipe_settings
from autotok.training.student import emitted
from autotok.training.teacher import check_teacher_classes, teacher_of

from .export_report import first_images
from .finetune_folder import (
    BEFORE,
    CHECKPOINT,
    QUESTION,
    FineTuneQuestion,
    QualityBefore,
    check_same_start,
    fit_folder,
    remove_files,
)
from .finetune_job import (
    FineTuneJob,
    check_question,
    config_of,
    job_of,
    wished_spec,
    with_spec,
)
from .told_classes import told_class_names

_LOG = logging.getLogger(__name__)
# 95 % of a share lies within 5 points on so many
NUM_IMAGES = 500
CHECK_IMAGES = 4
OnProgress = Callable[[float, str], None]


@dataclass(frozen=True)
class FineTuneResult:
    """A fine-tuned model and how it compares with the same reduction before."""

    model: CompressedViT
    done: FineTuned
    before: Quality
    after: Quality
    folder: Path | None
    """Where `best.yaml` and `best/` are; None if nothing was to be written."""

    def to_dict(self) -> dict[str, Any]:
        """Plain figures."""
        before, after = self.before, self.after
        return {
            "folder": None if self.folder is None else str(self.folder),
            "config_id": self.model.config.config_id,
            "metric": after.metric,
            "before": round(before.value, 4),
            "before_low_95": round(before.low, 4),
            "before_high_95": round(before.high, 4),
            "after": round(after.value, 4),
            "after_low_95": round(after.low, 4),
            "after_high_95": round(after.high, 4),
            "num_images": after.num_images,
            **({} if after.macs_mean is None else {"macs_mean": after.macs_mean}),
            "steps": self.done.steps,
            "training_images": self.done.images,
            "seconds": round(self.done.seconds, 1),
            "images_per_s": round(self.done.images_per_s, 2),
            "loss": round(self.done.loss, 6),
            "precision": self.done.precision,
            **self.done.evidence(),
        }


def finetune(
    model: nn.Module | CompressionConfig | str | Path,
    *,
    data: str | Path = "demo",
    output: str | Path | None = None,
    spec: FineTuneSpec | None = None,
    changes: Mapping[str, Any] | None = None,
    recipe: str | None = None,
    backbone: str | None = None,
    checkpoint: str | Path | None = None,
    class_names: str | Path | None = None,
    num_images: int = NUM_IMAGES,
    precision: str = "auto",
    resume: bool = False,
    device: str | None = None,
    on_progress: OnProgress | None = None,
) -> FineTuneResult:
    """A copy of a compressed model, fine-tuned by distillation from the uncompressed one.

    Trains on the training split of `data`, judges on the validation split; of a folder that has
    `train` alone, a fifth is held out to judge on. What is handed over is never worse than what it
    started from, on training images that are held out of the training. Processes that `torchrun`
    started train together, each on its part of every batch; the first judges and writes.

    Args:
        model: A model from `compress`, the path of a `best.yaml`, or a configuration.
        output: Folder for checkpoint, `best.yaml` and `best/`; nothing is written without.
        spec: How to train; by default what the configuration says, else 200 steps with the losses
            that its method was published with. A rate that it does not give is found by a probe.
        changes: Fields of the spec to set otherwise.
        recipe: 'deit', or a YAML file of such fields; `changes` go over it. By name, labels are
            learned from too where there are any.
        backbone: For a path or a configuration: another backbone, by name.
        checkpoint: Its weights.
        class_names: File of the model's class names in order; by default that of a `best.yaml`.
        num_images: Validation images, at most.
        resume: Go on with an interrupted fine-tune in `output`.
        device: 'auto', 'cpu', 'cuda[:N]' or 'mps'; where the model is by default.

    Raises:
        ConfigError, DataError, CheckpointError, RunDirectoryError, Diverged
    """
    ranks = joined_ranks()
    folder = None if output is None else fit_folder(Path(output), resume)
    ranks.agreed(0.0)  # all have looked before the first one writes
    tell = on_progress or (lambda *_: None)
    data = str(data)
    check_data(data, class_names=class_names)
    class_names = told_class_names(model, data, class_names)
    config, settings = config_of(model), {}
    if recipe is not None:
        settings = recipe_settings(recipe, labelled=True)
    changes = changes or {}
    wished = wished_spec(config, spec, {**settings, **changes})
    files = [None if path is None else str(path) for path in (checkpoint, class_names)]
    best = str(Path(model).absolute()) if isinstance(model, (str, Path)) else None
    named = None if isinstance(model, nn.Module) else config
    asked = FineTuneQuestion(
        data, num_images, precision, wished, backbone, files[0], files[1], named, best
    )
    if folder is not None and resume:
        check_same_start(folder, asked)
    check_question(config, asked, changes if recipe in list_recipes() else {**settings, **changes})
    job = job_of(model, backbone, None if checkpoint is None else Path(checkpoint))
    check_teacher_classes(wished, job.backbone.facts)
    if device is not None:
        job.backbone.to(torch_device(own_device(device, ranks)))
    train, evaluator = _sources(data, job.backbone, class_names)
    for words in told_of(evaluator.data, job.backbone):
        tell(0.0, words)
    job = with_spec(job, spec, recipe, changes, train)
    assert job.config.finetune is not None
    student, begins_with = job.student()
    if begins_with:
        tell(0.0, f"training goes on from {begins_with}")
    teacher = teacher_of(job.config.finetune, job.backbone)
    with_networks(student)
    seed = job.config.finetune.seed
    if needs_calibration(job.config):
        student = calibrated_on(student, train, seed)
    check_spec(student, job.config.finetune, teacher, train)
    resolve_precision(precision, next(student.parameters()).device)
    if folder is not None and not resume and ranks.first:
        stored = {**vars(asked), "spec": job.config.finetune.to_dict()}
        stored["config"] = None if named is None else named.to_dict()
        write_text(folder / QUESTION, json.dumps(stored, indent=1))
    stop = min(num_images, evaluator.num_images)
    tell(0.0, f"evaluating {job.config.method} before, on {stop} images")
    before = ranks.from_first(lambda: _before(student, job.config, evaluator, stop, folder))
    try:
        done = training.finetune_student(
            student,
            train,
            job.config.finetune,
            teacher=teacher,
            checkpoint=None if folder is None else folder / CHECKPOINT,
            on_progress=lambda at: tell(0.1 + 0.8 * at.progress, finetune_line(at)),
            precision=precision,
            ranks=ranks,
        )
    except Diverged:
        if ranks.first:  # going on would diverge again
            remove_files(folder, QUESTION, CHECKPOINT, BEFORE)
        raise
    student = _stopping_again(tuned(emitted(student), train, seed), train, seed)
    if dearer := _dearer(student, job.config):
        _LOG.warning("%s", dearer)
    tell(0.9, f"evaluating after, on {stop} images")
    after = ranks.from_first(lambda: judged_tally(evaluator, student, 0, stop).quality())
    result = FineTuneResult(student, done, before, after, folder)
    if folder is not None and ranks.first:
        lowered = job.config.number_format == "int8"
        shown = first_images(train, QUANTISED_ON, seed) if lowered else None
        _hand_over(folder, job, result, asked, evaluator, shown)
    return result


def _stopping_again(student: CompressedViT, train: DataSource, seed: int) -> CompressedViT:
    """The model under an exit threshold that meets the mean cost it was asked for: heads that were
    trained on are surer, or less sure, than those that the last one was found for."""
    exits = student.config.exits
    if exits is None or exits.mean_macs is None:
        return student
    try:
        return meeting_mean(student, train, exits.mean_macs, seed)[0]
    except ConfigError as error:
        _LOG.warning("the exit threshold stays as it was: %s", error)
        return student


def _dearer(student: CompressedViT, given: CompressionConfig) -> str:
    """What to say where a method that learns its amounts learned dearer ones; "" otherwise."""
    was, now = (cost(student.backbone.facts, c).macs for c in (given, student.config))
    if now <= was:
        return ""
    return (
        f"method '{given.method}' learned amounts of {now / 1e9:.4g} GFLOPs, and those given are of"
        f" {was / 1e9:.4g}; give it fewer tokens, or a longer fine-tune, where that is too much"
    )


def finetune_line(at: FineTuneProgress) -> str:
    """Where a fine-tune stands, in words."""
    of = "" if at.steps is None else f" of {at.steps}"
    left = f"{at.seconds_left / 60:.0f} min" if at.seconds_left > 90 else f"{at.seconds_left:.0f} s"
    return (
        f"step {at.step}{of}, loss {at.loss:.4g}, {at.images_per_s:.1f} images/s, about {left} left"
    )


def _sources(
    data: str, backbone: Backbone, class_names: str | Path | None
) -> tuple[DataSource, Evaluator]:
    """Training images, and the judge on others."""
    train = load_data(data, backbone, split="train", class_names=class_names)
    return train, Evaluator(backbone, load_data(data, backbone, class_names=class_names))


def _before(
    student: CompressedViT,
    config: CompressionConfig,
    evaluator: Evaluator,
    stop: int,
    folder: Path | None,
) -> Quality:
    """Quality without fine-tuning; read back where an interrupted run has found it already."""
    key = [config.config_id, evaluator.metric, evaluator.data.name, stop]
    path = None if folder is None else folder / BEFORE
    if path is not None and path.is_file():
        text = path.read_text("utf-8", "replace")
        stored = typed(QualityBefore, parse_json(text, str(path)), str(path))
        if stored.key == key:
            return stored.tally.quality()
    found = evaluator.evaluate(student.eval(), 0, stop, finetuned=False)
    if path is not None:
        write_text(path, json.dumps({"key": key, "tally": dataclasses.asdict(found)}))
    return found.quality()


def _hand_over(
    folder: Path,
    job: FineTuneJob,
    result: FineTuneResult,
    asked: FineTuneQuestion,
    evaluator: Evaluator,
    calibration: Tensor | None,
) -> None:
    """Write the bundle; what only an interrupted fine-tune needs goes."""
    config = result.model.config
    exact = cost(result.model.backbone.facts, config)
    evidence: Mapping[str, Any] = {
        "costs": exact.columns,
        "data": asked.data,
        "class_names": asked.class_names,
        "labelling": evaluator.data.labelling,
        "quality": dataclasses.asdict(result.after),
        "quality_before": dataclasses.asdict(result.before),
        "judged_format": "float32",
        "finetune": dataclasses.asdict(result.done),
        "patch_tokens_kept": list(result.model.schedule.kept),
    }
    bundle = Bundle(job.ref, config, preprocessing_of(job.backbone).to_dict(), evidence)
    images, _ = evaluator.data.batch(evaluator.data.subset(CHECK_IMAGES, evaluator.seed))
    names = evaluator.data.class_names
    save_bundle(
        folder / "best", result.model, bundle, images, calibration=calibration, class_names=names
    )
    write_best(folder / "best.yaml", bundle)
    remove_files(folder, CHECKPOINT, BEFORE)
