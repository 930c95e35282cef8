"""`ModelWorker`: does a search's jobs on real models: build, fine-tune, evaluate.

Below it, how a model is judged, everywhere: which thresholds it runs under, on which images, at
what cost. The search, `autotok.evaluate` and `autotok evaluate` all go through these.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

from torch import Tensor

from autotok.backbones.base import Backbone
from autotok.backbones.supernet import AutoFormerSupernet, SupernetView
from autotok.compression.activations import Activations
from autotok.compression.calibrate import (
    CALIBRATION_IMAGES,
    needs_calibration,
    needs_recalibration,
    unsettled,
)
from autotok.compression.compress import compress_backbone, reconfigured, with_networks
from autotok.compression.exit_scores import ExitScores, recorded_exits
from autotok.compression.exit_set import ExitSet
from autotok.compression.model import CompressedViT
from autotok.compression.schedule import is_adaptive
from autotok.config import CompressionConfig, Subnet
from autotok.counting.adaptive import calibrated_within, metered
from autotok.counting.counter import count_each, count_macs
from autotok.counting.exit_costs import exit_threshold
from autotok.errors import AutotokError, ConfigError
from autotok.evaluation.accuracy import Evaluator, Tally
from autotok.evaluation.data import DataSource
from autotok.evaluation.transfer import sent
from autotok.export.file_model import FileModel, as_file
from autotok.finetune_spec import FineTuneSpec
from autotok.methods.registry import get_method
from autotok.methods.thresholds import trains_thresholds
from autotok.pruned_spec import PrunedSpec
from autotok.searching.space.problem import COUNTED_IMAGES, Tuned
from autotok.training.distill import default_losses
from autotok.training.finetune import finetune_student
from autotok.training.finetuned import FineTuned, FineTuneProgress
from autotok.training.losses import LOSSES
from autotok.training.student import emitted, retrained, save_weights, student_of
from autotok.training.teacher import Teacher, teacher_of

_LOG = logging.getLogger(__name__)
WEIGHTS_FOLDER = "weights"
EXIT_IMAGES_OF_A_TRIAL = 256
"""On which a trial's exit threshold is found, once for all trials that take no token away."""
MEAN_ERRORS = 2.0
"""Standard errors by which the mean cost of these stays below what is asked."""
_HARMLESS = 1e-8
"""Learning rate of steps that are run for their speed."""
QUANTISED_ON = 16
"""Images that int8 files are calibrated on."""


class ModelWorker:
    """Builds, fine-tunes and evaluates the configurations of one backbone or supernet."""

    def __init__(
        self,
        backbone: Backbone,
        evaluator: Evaluator,
        training: Callable[[], DataSource],
        *,
        supernet: AutoFormerSupernet | None = None,
        weights: Path | None = None,
        heads: ExitSet | None = None,
    ) -> None:
        """`training` loads the training images, or raises why there are none; `weights` is the
        folder of fine-tuned weights; without one nothing can be retrained. `heads` are those of
        exits that were trained with the backbone."""
        self.backbone, self.evaluator = backbone, evaluator
        evaluator.activations, evaluator.compares = Activations(backbone), True
        self._training, self.supernet, self._weights = training, supernet, weights
        self._heads = heads
        self._recorded: ExitScores | None = None
        """What these heads say of training images where no token is taken away."""
        self.on_finetune: Callable[[FineTuneProgress], None] | None = None
        """Told after every step of a fine-tune."""
        self._teacher: Teacher | None = None
        self._taught_by: tuple[str | None, str | None] = (None, None)
        self._train_data: DataSource | None = None
        self._last: tuple[str, CompressedViT] | None = None
        self._last_file: tuple[str, FileModel] | None = None
        self._told = False

    def bring_home(self) -> None:
        """Backbone and supernet back to the CPU, where files are written from."""
        for part in (self.backbone, self.supernet):
            if part is not None:
                part.cpu()
        self._last = self._teacher = None
        self.evaluator.activations = Activations(self.backbone)

    def backbone_of(self, subnet: Subnet | None) -> Backbone:
        """The backbone, of which `compress_backbone` cuts out what is pruned, or a view of another
        subnet on the supernet's weights."""
        if subnet is None or isinstance(subnet, PrunedSpec):
            return self.backbone
        if self.supernet is None:
            raise ConfigError(
                f"backbone '{self.backbone.facts.name}' was loaded without its supernet, so it has"
                " no other subnets"
            )
        view = SupernetView(self.supernet, subnet, name=self.backbone.facts.name)
        return view.eval()

    def compressed(self, config: CompressionConfig) -> CompressedViT:
        """The model of a configuration; a retrained one with the weights its fine-tune left."""
        if self._last is not None and self._last[0] == config.config_id:
            return self._last[1]
        backbone = self.backbone_of(config.subnet)
        if config.mode == "retrain":
            model = retrained(backbone, config, self._weights_file(config))
        else:
            model = with_networks(self._headed(compress_backbone(backbone, config)))
            if config.exits is not None and config.exits.wants_threshold:
                model = self._stopping(model)
            if needs_calibration(config):
                training = None if self.why_not_trainable() else self._training_data()
                model, found_on = plugged_in(model, self.evaluator, training)
                if training is None and not self._told:
                    _LOG.warning("thresholds of %s were found on %s", config.method, found_on)
                    self._told = True
        self._last = config.config_id, model
        return model

    def _headed(self, model: CompressedViT) -> CompressedViT:
        """The model with the heads that were trained, where it has exits."""
        if model.exits is not None:
            if self._heads is None:
                raise ConfigError(
                    "exits have heads that must be trained with the backbone; give its checkpoint"
                    " beside them"
                )
            model.exits.take(self._heads)
        return model

    def _stopping(self, model: CompressedViT) -> CompressedViT:
        """The model under the exit threshold that keeps the mean cost on training images, or where
        there are none on those to be judged; what heads say where no token goes is found once."""
        assert self._heads is not None
        assert model.exits is not None
        data, seed = self.ranking_data(), self.evaluator.seed
        if model.config.reductions:
            scores = recorded_on(model, data, seed, EXIT_IMAGES_OF_A_TRIAL)
        else:
            if self._recorded is None:
                config = dataclasses.replace(model.config, exits=self._heads.policy)
                every = self._headed(compress_backbone(model.original, config))
                self._recorded = recorded_on(every, data, seed, EXIT_IMAGES_OF_A_TRIAL)
            places = self._heads.policy.places
            scores = self._recorded.of([places.index(p) for p in model.exits.policy.places])
        return stopping_under(model, scores, errors=MEAN_ERRORS)

    def plugged_in(self, config: CompressionConfig) -> CompressedViT:
        """The model of a configuration without any retraining: enough to count and to predict."""
        plain = config.plugged_in
        return compress_backbone(self.backbone_of(plain.subnet), plain)

    def why_not_trainable(self) -> str | None:
        """Why there is nothing to fine-tune on, in words; None where there is."""
        try:
            self._training_data()
        except AutotokError as error:
            return str(error)
        return None

    def usable_losses(self) -> list[str]:
        """Losses that the training images and the backbone allow, the default one first."""
        labelled, facts = self._training_data().labelled, self.backbone.facts
        usable = [
            loss.name
            for loss in LOSSES.values()
            if (labelled or not loss.labels) and (facts.num_classes > 0 or not loss.classes)
            if not loss.exits  # a search proposes none
        ]
        return sorted(usable, key=lambda name: name not in default_losses(facts))

    def ranking_data(self) -> DataSource:
        """Images that importance is found on: training ones, or where there are none, those to be
        judged, whose labels nobody looks at."""
        return self.evaluator.data if self.why_not_trainable() else self._training_data()

    def _training_data(self) -> DataSource:
        if self._train_data is None:
            self._train_data = self._training()
        return self._train_data

    def evaluate(self, config: CompressionConfig, start: int, stop: int) -> Tally:
        """Tally over images [start, stop) of the seeded order."""
        whole = CompressionConfig(backbone=config.backbone)
        if config == whole and self.evaluator.metric == "top1":
            return self.evaluator.reference(start, stop)  # what all others are held against
        model = self.compressed(config)
        if config.number_format == "float32":
            return judged_tally(self.evaluator, model, start, stop)
        return self.evaluator.evaluate(self._file(model), start, stop)

    def _file(self, model: CompressedViT) -> FileModel:
        """The model as the file that would be shipped."""
        key = model.config.config_id
        if self._last_file is None or self._last_file[0] != key:
            self._last_file = key, as_file(model, self.calibration_images())
        return self._last_file[1]

    def calibration_images(self) -> Tensor:
        """(n, C, H, W) normalised, what int8 files are calibrated on: the first training images, or
        where there are none, the first of those to be judged."""
        data = self.ranking_data()
        return data.batch(data.subset(min(QUANTISED_ON, len(data)), self.evaluator.seed))[0]

    def count(self, config: CompressionConfig) -> float:
        """Multiply-accumulates of an image by the independent counter: of what ran, the mean over
        the first images, where token counts differ between images."""
        if config.exits is None and not is_adaptive(config):
            return count_macs(self.plugged_in(config))
        data = self.evaluator.data
        images = data.batch(data.subset(COUNTED_IMAGES, self.evaluator.seed))[0]
        return fmean(count_each(self.compressed(config), images))

    def finetune(self, config: CompressionConfig) -> Tuned:
        """Fine-tune a configuration; its weights are kept under the id of what came out.

        Methods of thresholds start from those that meet the amounts, and end with those that
        training left or, where it learns none, with those that meet the amounts again.
        """
        path = self._weights_file(config)
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoint = path.with_suffix(".ckpt")
        student, done = self._trained(config, checkpoint, self.on_finetune)
        data = self._training_data()
        student = tuned(student, data, self.evaluator.seed)
        save_weights(student, self._weights_file(student.config))
        checkpoint.unlink(missing_ok=True)
        self._last = None
        return Tuned(
            done.steps,
            done.images,
            done.seconds,
            done.loss,
            config=student.config.canonical,
            evidence=done.evidence(),
        )

    def _trained(
        self,
        config: CompressionConfig,
        checkpoint: Path | None,
        on_progress: Callable[[FineTuneProgress], None] | None,
    ) -> tuple[CompressedViT, FineTuned]:
        """(the student as its fine-tune left it, what that did)."""
        spec = config.finetune or FineTuneSpec()
        asked = spec.teacher, spec.teacher_checkpoint
        if self._teacher is None or self._taught_by != asked:
            self._teacher, self._taught_by = teacher_of(spec, self.backbone), asked
        student, data = student_of(self.backbone_of(config.subnet), config), self._training_data()
        if needs_calibration(config):
            student = calibrated_on(student, data, self.evaluator.seed)
        done = finetune_student(
            student,
            data,
            spec,
            teacher=self._teacher,
            checkpoint=checkpoint,
            on_progress=on_progress,
        )
        return student, done

    def pace(self, config: CompressionConfig) -> Tuned:
        """See `Worker.pace`; at a rate that changes next to nothing."""
        assert config.finetune is not None
        spec = dataclasses.replace(config.finetune, lr=_HARMLESS)
        seen: list[float] = []
        timed = dataclasses.replace(config, finetune=spec)
        _, done = self._trained(timed, None, lambda at: seen.append(at.images_per_s))
        return Tuned(done.steps, done.images, done.images / max(seen), done.loss)

    def has_weights(self, config: CompressionConfig) -> bool:
        """Whether the weights that a fine-tune left are in this run's folder."""
        return self._weights is not None and self._weights_file(config).is_file()

    def _weights_file(self, config: CompressionConfig) -> Path:
        if self._weights is None:
            raise ConfigError("a configuration of mode 'retrain' needs a folder for its weights")
        return self._weights / f"{config.config_id}.safetensors"


# --- how a model is judged


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
    return calibrated_within(model, sent(images, next(model.parameters()).device))


def recorded_on(model: CompressedViT, data: DataSource, seed: int, number: int) -> ExitScores:
    """What every exit says of the first images of a data set, at most `number` of them."""
    indices = data.subset(min(number, len(data)), seed)
    parts = [indices[first : first + 32] for first in range(0, len(indices), 32)]
    device = next(model.parameters()).device
    return recorded_exits(model, (sent(data.batch(part)[0], device) for part in parts))


def stopping_under(
    model: CompressedViT, scores: ExitScores, *, errors: float = 0.0
) -> CompressedViT:
    """The model under the exit threshold that meets the mean cost its policy names, see
    `exit_threshold`."""
    policy = model.config.exits
    assert policy is not None
    assert policy.mean_macs is not None
    threshold = exit_threshold(model, scores, policy.mean_macs, errors=errors)
    policy = dataclasses.replace(policy, threshold=(threshold,))
    return reconfigured(model, dataclasses.replace(model.config, exits=policy))


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
    on_images: Callable[[int], None] | None = None,
) -> Tally:
    """Tally over images [start, stop), with what each of them cost where that differs."""
    return evaluator.evaluate(metered(model), start, stop, on_images=on_images)
