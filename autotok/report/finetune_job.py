"""What is fine-tuned, of what it was asked: the uncompressed backbone, its configuration, how."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from autotok.backbones.base import Backbone
from autotok.backbones.family import tensors_of
from autotok.backbones.loading import check_file, check_name, load_backbone, load_structure
from autotok.compression.compress import compress_backbone
from autotok.compression.folding import pinned
from autotok.compression.model import CompressedViT
from autotok.config import CompressionConfig
from autotok.errors import ConfigError
from autotok.evaluation.data import DataSource
from autotok.export.best_yaml import BackboneRef, read_best
from autotok.export.bundle import load_bundle, load_uncompressed
from autotok.export.weights import EXITS, REDUCERS, WEIGHTS
from autotok.finetune_spec import FineTuneSpec
from autotok.names import check_number, known
from autotok.training.distill import EXITS_ALONE, default_losses
from autotok.training.exit_losses import check_exit_losses
from autotok.training.losses import get_loss
from autotok.training.precision import PRECISIONS
from autotok.training.recipes import list_recipes, recipe_settings
from autotok.training.student import student_of
from autotok.training.teacher import check_teacher
from autotok.training.variation import check_smoothing, check_training_augment

from .finetune_folder import FineTuneQuestion


@dataclass(frozen=True)
class FineTuneJob:
    """What is fine-tuned: the uncompressed backbone, the configuration, where it came from."""

    backbone: Backbone
    config: CompressionConfig
    ref: BackboneRef
    source: CompressedViT | None = None
    """A model of the same method or exits, whose own parameters training starts from."""

    def student(self) -> tuple[CompressedViT, str]:
        """(the model to train; which of its parameters were not drawn anew, in words)."""
        student, said = student_of(self.backbone, self.config), []
        if self.source is None:
            return student, ""
        source = copy.deepcopy(self.source)
        like = next(student.parameters())
        if student.exits is not None and source.exits is not None:
            known = set(source.exits.policy.places) & set(student.exits.policy.places)
            student.exits.take(source.exits.to(like))
            said += [f"{len(known)} of {len(student.exits.policy.places)} heads of exits"]
        if student.config.method == source.config.method and tensors_of(student.reducers):
            own, theirs = student.reducers.state_dict(), source.reducers.state_dict()
            fitting = {k: v for k, v in theirs.items() if k in own and own[k].shape == v.shape}
            student.reducers.load_state_dict(fitting, strict=False)
            said += [f"{len(fitting)} of {len(own)} tensors of method '{student.config.method}'"]
        return student, " and ".join(said)


def config_of(model: nn.Module | CompressionConfig | str | Path) -> CompressionConfig:
    """The configuration that is to be fine-tuned.

    Raises:
        ConfigError: it is no compressed model, or one that no fine-tune can start from.
    """
    if isinstance(model, CompressionConfig):
        return model
    if not isinstance(model, nn.Module):
        return read_best(Path(model)).config
    if not isinstance(model, CompressedViT):
        raise ConfigError("the model is not compressed; give the result of autotok.compress")
    if model.config.mode == "retrain":
        raise ConfigError(
            "the model is fine-tuned already, and a fine-tune starts from the uncompressed"
            " weights; give its best.yaml, or compress the original model again"
        )
    if model.is_folded:
        raise ConfigError(
            "adapters are folded into the model's weights, and a fine-tune starts from the"
            " uncompressed ones; give its best.yaml, or compress the original model again"
        )
    return model.config


def wished_spec(
    config: CompressionConfig, spec: FineTuneSpec | None, changes: Mapping[str, Any]
) -> FineTuneSpec:
    """How to train, as far as it is known before anything is loaded."""
    usual = FineTuneSpec() if config.exits is None else FineTuneSpec(losses=EXITS_ALONE)
    return dataclasses.replace(spec or config.finetune or usual, **changes)


def check_question(
    config: CompressionConfig, asked: FineTuneQuestion, stated: Collection[str]
) -> None:
    """Raise for what cannot be, before anything is loaded.

    `stated` are the fields of the spec that somebody chose.
    """
    for loss in asked.spec.losses:
        get_loss(loss)
    check_exit_losses(config, asked.spec.losses)
    check_training_augment(asked.spec.augment)
    if {"losses", "label_smoothing"} <= set(stated):
        check_smoothing(asked.spec)
    check_teacher(asked.spec)
    known("precision", asked.precision, PRECISIONS)
    if asked.backbone is not None:
        check_name(asked.backbone)
    check_file(None if asked.checkpoint is None else Path(asked.checkpoint))
    check_number("num_images", asked.num_images)


def job_of(
    model: nn.Module | CompressionConfig | str | Path, name: str | None, checkpoint: Path | None
) -> FineTuneJob:
    """What is fine-tuned, with its weights.

    Raises:
        ConfigError, CheckpointError: see `config_of`, `load_backbone` and `load_uncompressed`.
    """
    config = config_of(model)
    if isinstance(model, CompressedViT):
        own = model.original.whole
        return FineTuneJob(own, config, BackboneRef.of(own.facts), model)
    if isinstance(model, CompressionConfig):
        config, name = pinned(config), name or "autoformer_demo"
        if checkpoint is None:  # shapes are known without weights
            compress_backbone(load_structure(name, subnet=config.subnet), config)
        own = load_backbone(name, checkpoint=checkpoint, subnet=config.subnet)
        ref = BackboneRef.of(own.facts, name=name, checkpoint=checkpoint)
        return FineTuneJob(own, config, ref, trained_beside(checkpoint))
    assert isinstance(model, (str, Path))
    ref = read_best(Path(model)).backbone
    own = load_uncompressed(Path(model), backbone=name, checkpoint=checkpoint)
    if name is not None or checkpoint is not None:
        ref = BackboneRef.of(own.facts, name=name or ref.name, checkpoint=checkpoint)
    return FineTuneJob(own, config, ref, trained_beside(ref.checkpoint))


def trained_beside(checkpoint: str | Path | None) -> CompressedViT | None:
    """The compressed model whose weight file this is, in the folder of its bundle; None where it is
    no bundle's, or nothing of the model is the method's own."""
    home = None if checkpoint is None else Path(checkpoint).parent
    if home is None or Path(checkpoint or "").name != WEIGHTS:
        return None
    parts = [home / name for name in (REDUCERS, EXITS)]
    return load_bundle(home) if any(part.is_file() for part in parts) else None


def with_spec(
    job: FineTuneJob,
    spec: FineTuneSpec | None,
    recipe: str | None,
    changes: Mapping[str, Any],
    train: DataSource,
) -> FineTuneJob:
    """The job with how to train: as given, as its configuration says, or as published; over it go
    what a recipe sets, and the changes."""
    config, facts = job.config, job.backbone.facts
    usual = default_losses(facts, config, labelled=train.labelled)
    chosen = spec or config.finetune or FineTuneSpec(losses=usual)
    settings: Mapping[str, Any] = {}
    if recipe is not None:
        settings = recipe_settings(recipe, labelled=train.labelled)
    named, classes = recipe in list_recipes(), config.exits is None and facts.num_classes
    if named and classes and train.labelled:  # mixed labels are the half of it
        settings = {"losses": {"ce": 1.0, **usual}, **settings}
    chosen = dataclasses.replace(chosen, **{**settings, **changes})
    if named and "ce" not in chosen.losses and "label_smoothing" not in changes:
        chosen = dataclasses.replace(chosen, label_smoothing=0.0)
    retrained = dataclasses.replace(config, mode="retrain", finetune=chosen)
    return dataclasses.replace(job, config=retrained)
