"""`judge`: one model beside the uncompressed one, judged as a search judges its trials."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from autotok.backbones.base import Backbone
from autotok.compression.calibrate import needs_calibration
from autotok.compression.compress import reconfigured
from autotok.compression.model import CompressedViT
from autotok.errors import AutotokError, ConfigError
from autotok.evaluation.accuracy import Quality
from autotok.evaluation.data import DataSource, load_data, told_of
from autotok.evaluation.own_quality import OwnQuality, make_evaluator
from autotok.evaluation.precision import ChosenFormat, choose_format
from autotok.export.file_model import as_file
from autotok.finetune_spec import check_seed
from autotok.names import check_number

from .counterpart import require_counterpart
from .model_worker import (
    QUANTISED_ON,
    judged_tally,
    plugged_in,
    recorded_on,
    stopping_under,
)

EXIT_IMAGES = 1000
"""On which the threshold of exits is found: where costs spread by a quarter of their mean, the mean
of so many is known to 1.6 per cent (two standard errors)."""
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
    data: str | Path,
    *,
    metric: str = "auto",
    num_images: int | None = None,
    seed: int = 0,
    uncompressed: Backbone | None = None,
    class_names: str | Path | None = None,
    precision: str = "auto",
    own: OwnQuality | None = None,
    mean_macs: float | None = None,
    on_progress: Callable[[float, str], None] | None = None,
) -> Judged:
    """Quality of a model and of the uncompressed one on a data set, as a search judges it.

    `mean_macs` is what an image of a model with exits may cost on average: their threshold is found
    first, on training images where there are some.

    Raises:
        ConfigError: images or a seed that cannot be; the model was fine-tuned, and nobody says what
            it shall agree with, or what is said does not fit it; or a mean cost is asked of a model
            without exits, or one that its exits cannot meet.
    """
    check_number("num_images", num_images)
    check_seed(seed)
    if mean_macs is not None and model.exits is None:
        raise ConfigError(
            "a mean cost per image is met by exits, and the model has none; leave it out, or give"
            " a model with exits"
        )
    tell = on_progress or (lambda share, words: None)
    original = uncompressed or model.original.whole
    require_counterpart(model, original, metric)
    load = partial(load_data, data, original, class_names=class_names)
    source = load(own_labels=metric == "knn_top1")
    for words in told_of(source, original):
        tell(0.0, words)
    chosen = choose_format(precision, original, source, seed=seed)
    tell(0.0, chosen.sentence)
    evaluator = make_evaluator(
        original,
        source,
        metric=metric,
        seed=seed,
        precision=chosen.precision,
        own=own,
        training=partial(load, split="train", own_labels=True),
    )
    alone = own is not None or evaluator.metric == "top1"
    changed = model.config.mode == "retrain" or model.is_folded
    evaluator.compares = uncompressed is not None or not changed
    if changed and uncompressed is None and not alone:
        raise ConfigError(
            f"the model's weights were changed, so '{evaluator.metric}' needs the model it came"
            " from; give it as uncompressed, or the path of its best.yaml instead of the model"
        )
    policy = model.config.exits
    if mean_macs is None and policy is not None and policy.wants_threshold:
        mean_macs = policy.mean_macs
    wanted = mean_macs is not None
    training = _training_images(data, original, model, class_names, wanted=wanted)
    model, found_on = plugged_in(model, evaluator, training)
    shown = source if training is None else training
    if mean_macs is not None:
        model, found_on = meeting_mean(model, shown, mean_macs, seed)
    if found_on and training is None:
        _LOG.warning("thresholds were found on %s", found_on)
    stop = min(num_images or evaluator.num_images, evaluator.num_images)
    passes = _Passes(2 * stop, tell)
    reference = evaluator.reference(0, stop, on_images=passes.add).quality()
    if model.config.number_format == "float32":
        tally = judged_tally(evaluator, model, 0, stop, on_images=passes.add)
    else:  # what is shipped is the file
        calibration = shown.batch(shown.subset(min(QUANTISED_ON, len(shown)), seed))[0]
        tally = evaluator.evaluate(as_file(model, calibration), 0, stop, on_images=passes.add)
    return Judged(model, tally.quality(), reference, found_on, source, chosen)


@dataclass
class _Passes:
    """Tells how many forward passes are done."""

    total: int
    tell: Callable[[float, str], None]
    done: int = 0

    def add(self, images: int) -> None:
        self.done += images
        self.tell(self.done / self.total, f"{self.done} of {self.total} forward passes")


def _training_images(
    data: str | Path,
    backbone: Backbone,
    model: CompressedViT,
    class_names: str | Path | None,
    *,
    wanted: bool = False,
) -> DataSource | None:
    """The data's training split, where there is one and somebody needs it."""
    if (
        not wanted
        and not needs_calibration(model.config)
        and model.config.number_format == "float32"
    ):
        return None
    try:
        found = load_data(data, backbone, split="train", class_names=class_names)
    except AutotokError:
        return None
    return found if len(found) else None


def meeting_mean(
    model: CompressedViT, data: DataSource, mean_macs: float, seed: int
) -> tuple[CompressedViT, str]:
    """(the model under the exit threshold that costs `mean_macs` on average, on which images)."""
    policy = model.config.exits
    assert policy is not None
    asked = dataclasses.replace(policy, threshold=(), mean_macs=round(mean_macs))
    model = reconfigured(model, dataclasses.replace(model.config, exits=asked))
    number = min(EXIT_IMAGES, len(data))
    found = stopping_under(model, recorded_on(model, data, seed, number))
    return found, f"{number} images of '{data.name}'"
