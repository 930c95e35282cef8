"""`ModelWorker`: does a search's jobs on real models: build, fine-tune, evaluate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from autotok.backbones.base import Backbone
from autotok.backbones.supernet import AutoFormerSupernet, SupernetView
from autotok.compression.calibrate import CALIBRATION_IMAGES, calibrated, needs_calibration
from autotok.compression.compress import compress_backbone, with_networks
from autotok.compression.model import CompressedViT
from autotok.config import CompressionConfig, FineTuneSpec, SubnetSpec
from autotok.errors import AutotokError, ConfigError, DataError
from autotok.evaluation.accuracy import Evaluator, Tally
from autotok.evaluation.data import DataSource, load_data
from autotok.searching.problem import Tuned
from autotok.training.distill import Teacher, default_losses
from autotok.training.finetune import FineTuneProgress, finetune
from autotok.training.losses import LOSSES
from autotok.training.student import load_weights, save_weights, student_of

__all__ = ["WEIGHTS_FOLDER", "ModelWorker"]

WEIGHTS_FOLDER = "weights"


class ModelWorker:
    """Builds, fine-tunes and evaluates the configurations of one backbone or supernet."""

    def __init__(
        self,
        backbone: Backbone,
        evaluator: Evaluator,
        train_data: str,
        *,
        supernet: AutoFormerSupernet | None = None,
        weights: Path | None = None,
    ) -> None:
        """`weights` is the folder of fine-tuned weights; without one nothing can be retrained."""
        self.backbone, self.evaluator = backbone, evaluator
        self._data_name, self.supernet, self._weights = train_data, supernet, weights
        self.on_finetune: Callable[[FineTuneProgress], None] | None = None
        """Told after every step of a fine-tune."""
        self._teacher: Teacher | None = None
        self._train_data: DataSource | None = None
        self._last: tuple[str, CompressedViT] | None = None

    def backbone_of(self, subnet: SubnetSpec | None) -> Backbone:
        """The backbone, or a view of another subnet on the supernet's weights."""
        if subnet is None:
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
            model = student_of(backbone, config)
            load_weights(model, self._weights_file(config))
            model.eval()
        else:
            model = with_networks(compress_backbone(backbone, config))
            if needs_calibration(config):
                model = calibrated(model, self._calibration_images())
        self._last = config.config_id, model
        return model

    def _calibration_images(self) -> Tensor:
        """Training images where there are some, else images to be judged on."""
        data = self.evaluator.data if self.why_not_trainable() else self._training_data()
        return data.batch(data.subset(CALIBRATION_IMAGES, self.evaluator.seed))[0]

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
        ]
        return sorted(usable, key=lambda name: name not in default_losses(facts))

    def _training_data(self) -> DataSource:
        if self._train_data is None:
            data = load_data(self._data_name, self.backbone, split="train")
            if len(data) == 0:
                raise DataError(f"data '{self._data_name}' has no training images")
            self._train_data = data
        return self._train_data

    def evaluate(self, config: CompressionConfig, start: int, stop: int) -> Tally:
        """Tally over images [start, stop) of the seeded order."""
        return self.evaluator.evaluate(self.compressed(config), start, stop)

    def finetune(self, config: CompressionConfig) -> Tuned:
        """Fine-tune a configuration; its weights are kept under its id."""
        path = self._weights_file(config)
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoint = path.with_suffix(".ckpt")
        if self._teacher is None:
            self._teacher = Teacher(self.backbone)
        student = student_of(self.backbone_of(config.subnet), config)
        done = finetune(
            student,
            self._training_data(),
            config.finetune or FineTuneSpec(),
            teacher=self._teacher,
            checkpoint=checkpoint,
            on_progress=self.on_finetune,
        )
        save_weights(student, path)
        checkpoint.unlink(missing_ok=True)
        self._last = None
        return Tuned(done.steps, done.images, done.seconds, done.loss)

    def _weights_file(self, config: CompressionConfig) -> Path:
        if self._weights is None:
            raise ConfigError("a configuration of mode 'retrain' needs a folder for its weights")
        return self._weights / f"{config.config_id}.safetensors"
