"""The models that rows of a study run on: one backbone at a time, its images, its judge."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from autotok.backbones.base import evaluating
from autotok.backbones.loading import load_backbone
from autotok.config import CompressionConfig
from autotok.devices.measure import measure
from autotok.devices.measurement import Measurement
from autotok.devices.placing import torch_device
from autotok.errors import AutotokError, CheckpointError, DataError, IncompatibleMethod
from autotok.evaluation.accuracy import Evaluator, Quality
from autotok.evaluation.data import load_data
from autotok.evaluation.precision import choose_format
from autotok.finetune_spec import FineTuneSpec
from autotok.methods.base import Training
from autotok.methods.registry import get_method
from autotok.searching.running.model_worker import ModelWorker
from autotok.training.distill import default_losses

from .study_table import StudyRow

STAND_IN = "autoformer_demo"
TURNS = 5
"""Timed, beside as many of the uncompressed model."""
_PATIENCE_S = 15.0
DEMO_IMAGES, DATA_IMAGES = 200, 1000
"""Judged on where nobody says how many."""


@dataclass(frozen=True)
class RowSetting:
    """What rows are run with, apart from what they say themselves."""

    data: str
    is_stand_in: bool
    """The demo's backbone stands in for every published one."""
    num_images: int
    finetune_steps: int
    precision: str
    device: str
    class_names: str | None
    checkpoints: Mapping[str, Path]

    def backbone_name(self, row: StudyRow) -> str:
        """What a row runs on."""
        return STAND_IN if self.is_stand_in else row.backbone

    def steps(self, row: StudyRow) -> int:
        """Of a row's fine-tune: of those that the source retrained, and that must be trained.

        Raises:
            IncompatibleMethod: it must be trained, and no steps are asked for.
        """
        needed = get_method(row.method).training_need is Training.REQUIRED
        if needed and not self.finetune_steps:
            raise IncompatibleMethod(
                f"method '{row.method}' has parameters that must be trained before it is of any"
                " use; give --finetune STEPS"
            )
        return self.finetune_steps if needed or row.mode == "retrain" else 0


@dataclass(frozen=True)
class JudgedRow:
    """Quality of one configuration and of the uncompressed model, on the same images."""

    quality: Quality
    uncompressed: Quality
    steps: int
    """Of the fine-tune before; 0: plugged in."""
    config: CompressionConfig


class RowModels:
    """Judges configurations of rows; holds the backbone of the last row."""

    def __init__(self, setting: RowSetting, folder: Path) -> None:
        self.setting, self._folder = setting, folder
        self._name = ""
        self._worker: ModelWorker | None = None
        self._failed: dict[str, AutotokError] = {}
        self._judged: dict[tuple[str, str, int], JudgedRow] = {}
        self._measured: dict[tuple[str, str, int], Measurement] = {}

    def judge(self, row: StudyRow, config: CompressionConfig, steps: int) -> JudgedRow:
        """A row's quality, after a fine-tune of that many steps.

        Raises:
            CheckpointError, DataError, IncompatibleMethod and what a fine-tune raises.
        """
        worker = self._open(row)
        key = (self._key(row), config.config_id, steps)
        if key not in self._judged:
            self._judged[key] = self._judge(worker, config, steps)
        return self._judged[key]

    def measured(self, row: StudyRow, config: CompressionConfig, batch: int) -> Measurement:
        """Latency of a row's judged model on this machine, beside the uncompressed one's; on a CPU
        of single images, whatever the batch."""
        worker = self._open(row)
        key = (self._key(row), config.config_id, batch)
        if key not in self._measured:
            self._measured[key] = self._measure(worker, config, batch)
        return self._measured[key]

    @staticmethod
    def _measure(worker: ModelWorker, config: CompressionConfig, batch: int) -> Measurement:
        model, whole = worker.compressed(config), worker.backbone
        like = next(whole.parameters())
        batch = batch if like.device.type == "cuda" else 1
        images = torch.randn(batch, *whole.facts.image_shape).to(like)
        with evaluating(model, whole):
            reference = None if config.method == "none" else whole
            return measure(model, images, reference=reference, rounds=TURNS, timeout_s=_PATIENCE_S)

    def _key(self, row: StudyRow) -> str:
        """Which weights a row runs on."""
        return STAND_IN if self.setting.is_stand_in else row.checkpoint_name

    def _judge(self, worker: ModelWorker, config: CompressionConfig, steps: int) -> JudgedRow:
        stop = min(self.setting.num_images, worker.evaluator.num_images)
        whole = worker.evaluator.reference(0, stop).quality()
        if steps:
            config = self._finetuned(worker, config, steps)
        quality = worker.evaluate(config, 0, stop)
        return JudgedRow(quality.quality(), whole, steps, config)

    @staticmethod
    def _finetuned(worker: ModelWorker, config: CompressionConfig, steps: int) -> CompressionConfig:
        """The configuration that a fine-tune left, whose weights the worker holds."""
        why = worker.why_not_trainable()
        if why is not None:
            raise DataError(f"there is nothing to fine-tune on: {why}")
        labelled = worker.ranking_data().labelled
        losses = default_losses(worker.backbone.facts, config, labelled=labelled)
        spec = FineTuneSpec(length=f"{steps} steps", losses=losses)
        done = worker.finetune(dataclasses.replace(config, mode="retrain", finetune=spec))
        return CompressionConfig.from_json(done.config)

    def _open(self, row: StudyRow) -> ModelWorker:
        """The worker of a row's backbone; what went wrong once is not tried again."""
        key = self._key(row)
        if key in self._failed:
            raise self._failed[key]
        if self._worker is None or self._name != key:
            self._worker = None  # the last one's memory goes before the next one's comes
            try:
                self._worker = self._loaded(row)
            except AutotokError as error:
                self._failed[key] = error
                raise
            self._name = key
        return self._worker

    def _loaded(self, row: StudyRow) -> ModelWorker:
        setting, file = self.setting, self.setting.checkpoints.get(row.checkpoint_name)
        if row.weights and file is None and not setting.is_stand_in:
            raise CheckpointError(
                f"weights '{row.weights}' are under no name that autotok knows; give them by"
                f" --checkpoint {row.weights}=FILE"
            )
        backbone = load_backbone(setting.backbone_name(row), checkpoint=file)
        backbone = backbone.to(torch_device(setting.device))
        images = partial(load_data, setting.data, backbone, class_names=setting.class_names)
        source = images()
        chosen = choose_format(setting.precision, backbone, source, seed=0)
        evaluator = Evaluator(backbone, source, precision=chosen.precision)
        training = partial(images, split="train")
        return ModelWorker(backbone, evaluator, training, weights=self._folder / "weights")
