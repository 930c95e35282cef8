"""`judge`: one model beside the uncompressed one, judged as a search judges its trials."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from autotok.backbones.base import Backbone
from autotok.compression.calibrate import needs_calibration
from autotok.compression.model import CompressedViT
from autotok.errors import AutotokError, ConfigError
from autotok.evaluation.accuracy import Evaluator, Quality
from autotok.evaluation.data import DataSource, load_data
from autotok.evaluation.precision import ChosenFormat, choose_format
from autotok.export.file_model import as_file

from .model_worker import QUANTISED_ON, judged_tally, plugged_in

_LOG = logging.getLogger(__name__)


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
    judged_in: ChosenFormat


def judge(
    model: CompressedViT,
    data: str,
    *,
    metric: str = "auto",
    num_images: int | None = None,
    seed: int = 0,
    uncompressed: Backbone | None = None,
    class_names: str | Path | None = None,
    precision: str = "auto",
    on_progress: Callable[[float, str], None] | None = None,
) -> Judged:
    """Quality of a model and of the uncompressed one on a data set, as a search judges it.

    Raises:
        ConfigError: the model was fine-tuned, and nobody says what it shall agree with.
    """
    original = uncompressed or model.backbone.whole
    source = load_data(data, original, class_names=class_names)
    if on_progress is not None:
        on_progress(0.0, source.labelling)
    chosen = choose_format(precision, original, source, seed=seed)
    if on_progress is not None:
        on_progress(0.0, chosen.sentence)
    evaluator = Evaluator(original, source, metric=metric, seed=seed, precision=chosen.precision)
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
    if model.config.number_format == "float32":
        tally = judged_tally(evaluator, model, 0, stop, on_images=advance)
    else:  # what is shipped is the file
        images = source if training is None else training
        shown = images.batch(images.subset(min(QUANTISED_ON, len(images)), seed))[0]
        tally = evaluator.evaluate(as_file(model, shown), 0, stop, on_images=advance)
    return Judged(model, tally.quality(), reference, found_on, source, chosen)


def _training_images(
    data: str, backbone: Backbone, model: CompressedViT, class_names: str | Path | None
) -> DataSource | None:
    """The data's training split, where there is one and somebody needs it."""
    if not needs_calibration(model.config) and model.config.number_format == "float32":
        return None
    try:
        found = load_data(data, backbone, split="train", class_names=class_names)
    except AutotokError:
        return None
    return found if len(found) else None
