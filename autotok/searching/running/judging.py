"""How a model is judged, everywhere: which thresholds it runs under, on which images, at what cost.

The search, `autotok.evaluate` and `autotok evaluate` all go through here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from autotok.backbones.base import Backbone
from autotok.compression.calibrate import (
    CALIBRATION_IMAGES,
    needs_calibration,
    needs_recalibration,
    unsettled,
)
from autotok.compression.model import CompressedViT
from autotok.counting.adaptive import calibrated_within, is_adaptive, metered
from autotok.counting.counter import count_each, count_macs
from autotok.errors import AutotokError, ConfigError
from autotok.evaluation.accuracy import Evaluator, Quality, Tally
from autotok.evaluation.data import DataSource, load_data
from autotok.methods.registry import get_method
from autotok.methods.thresholds import trains_thresholds
from autotok.searching.space.problem import COUNTED_IMAGES
from autotok.training.student import emitted

__all__ = [
    "Judged",
    "calibrated_on",
    "count_judged",
    "judge",
    "judged_tally",
    "plugged_in",
    "tuned",
]

_LOG = logging.getLogger(__name__)
OnImages = Callable[[int], None]


@dataclass(frozen=True)
class Judged:
    """A model under the thresholds that it was judged with, and what came of it."""

    model: CompressedViT
    quality: Quality
    reference: Quality
    """Of the uncompressed model, on the same images."""
    thresholds_from: str
    """On which images thresholds were found; '' where none had to be."""
    data: DataSource
    """The images."""


def plugged_in(
    model: CompressedViT, evaluator: Evaluator, training: DataSource | None
) -> tuple[CompressedViT, str]:
    """(the model ready to be judged, on whose images thresholds were found; '' if on none).

    A method of thresholds that is only given amounts has them found on training images, or where
    there are none on the first of those to be judged. Thresholds that a configuration states, or
    that training left in a fine-tuned model, are never found again.
    """
    if model.config.mode == "retrain" or not needs_calibration(model.config):
        return model, ""
    data = evaluator.data if training is None else training
    words = "training images" if training is not None else "of the images judged (no training ones)"
    number = min(CALIBRATION_IMAGES, len(data))
    return calibrated_on(model, data, evaluator.seed), f"{number} {words}"


def calibrated_on(model: CompressedViT, data: DataSource, seed: int) -> CompressedViT:
    """The model under thresholds found on the first images of a data set."""
    images = data.batch(data.subset(CALIBRATION_IMAGES, seed))[0]
    return calibrated_within(model, images.to(next(model.parameters()).device))


def tuned(student: CompressedViT, training: DataSource, seed: int) -> CompressedViT:
    """A fine-tuned model under the thresholds that decide from now on: those that it learned, else
    found on training images for the amounts of its configuration."""
    if trains_thresholds(get_method(student.config.method)):
        return emitted(student).deploy()
    found = needs_recalibration(unsettled(student.config))
    return (calibrated_on(student, training, seed) if found else student).deploy()


def judged_tally(
    evaluator: Evaluator,
    model: CompressedViT,
    start: int,
    stop: int,
    *,
    on_images: OnImages | None = None,
) -> Tally:
    """Tally over images [start, stop), with what each of them cost where that differs."""
    return evaluator.evaluate(metered(model), start, stop, on_images=on_images)


def count_judged(evaluator: Evaluator, model: CompressedViT) -> float:
    """Multiply-accumulates of an image by the independent counter: of what ran, the mean over the
    first images, where token counts differ between images."""
    if not is_adaptive(model.config):
        return count_macs(model)
    data = evaluator.data
    indices = data.subset(COUNTED_IMAGES, evaluator.seed)
    counts = count_each(model, data.batch(indices)[0])
    return sum(counts) / len(counts)


def judge(
    model: CompressedViT,
    data: str,
    *,
    metric: str = "auto",
    num_images: int | None = None,
    seed: int = 0,
    uncompressed: Backbone | None = None,
    class_names: str | Path | None = None,
    on_progress: Callable[[float, str], None] | None = None,
) -> Judged:
    """Quality of a model and of the uncompressed one on a data set, as a search judges it.

    Raises:
        ConfigError: the model was fine-tuned, and nobody says what it shall agree with.
    """
    original = uncompressed or model.backbone
    source = load_data(data, original, class_names=class_names)
    if on_progress is not None:
        on_progress(0.0, source.labelling)
    evaluator = Evaluator(original, source, metric=metric, seed=seed)
    if model.config.mode == "retrain" and uncompressed is None and evaluator.metric != "top1":
        raise ConfigError(
            f"the model was fine-tuned, so '{evaluator.metric}' needs the model it came from; give"
            " it as uncompressed, or give the path of its best.yaml instead of the model"
        )
    training = _training_images(data, original, model, class_names)
    model, found_on = plugged_in(model, evaluator, training)
    if found_on and training is None:
        _LOG.warning("thresholds were found on %s", found_on)
    stop = min(num_images or evaluator.num_images, evaluator.num_images)
    done = 0

    def advance(images: int) -> None:
        nonlocal done
        done += images
        if on_progress is not None:
            on_progress(done / (2 * stop), f"{done} of {2 * stop} forward passes")

    reference = evaluator.reference(0, stop, on_images=advance).quality()
    tally = judged_tally(evaluator, model, 0, stop, on_images=advance)
    return Judged(model, tally.quality(), reference, found_on, source)


def _training_images(
    data: str, backbone: Backbone, model: CompressedViT, class_names: str | Path | None
) -> DataSource | None:
    """The data's training split, where there is one and somebody needs it."""
    if not needs_calibration(model.config):
        return None
    try:
        found = load_data(data, backbone, split="train", class_names=class_names)
    except AutotokError:
        return None
    return found if len(found) else None
