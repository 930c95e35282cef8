"""`Learning`: for methods with a training of their own; their recipes and loss terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar

from torch import Tensor

from autotok.config import CompressionConfig, Options
from autotok.tokens import Tokens

from .base import TokenReducer
from .thresholds import trains_thresholds, with_thresholds


@dataclass(frozen=True)
class TrainingRecipe:
    """How a method is trained, as published; a fine-tune scales it to the steps it has."""

    reducer_lr: float = 1.0
    """Learning rate of the method's own parameters over the fine-tune's."""
    backbone_lr: float = 1.0
    """Learning rate of the backbone over the fine-tune's; 0 leaves it as it is."""
    frozen_share: float = 0.0
    """First share of the steps in which the backbone does not move."""
    reducer_decay: float | None = None
    """Weight decay of the method's own parameters; None is the fine-tune's."""
    losses: Mapping[str, float] = field(default_factory=dict)
    """Weights by loss name where the fine-tune names none; terms of `extra_loss` come on top."""
    source: str = ""
    """Where it was published."""


@dataclass(frozen=True)
class LossContext:
    """What a method's own loss terms may look at after a training forward."""

    tokens: Tokens
    """As they reached the student's read-out."""
    logits: Tensor
    """(B, classes) of the student."""
    labels: Tensor | None = None
    """(B,), or (B, classes) shares of mixed images."""
    teacher_logits: Tensor | None = None
    """(B, classes) of the uncompressed model."""
    teacher: Mapping[int, Tensor] = field(default_factory=dict)
    """Per block asked for by `teacher_layers`: its outgoing tokens (B, P + N0, C) there."""
    progress: float = 0.0
    """0 to 1 through the fine-tune."""
    label_smoothing: float = 0.0
    """Share of a label that all classes share."""


class Learning(TokenReducer):
    """A reducer with a training of its own; each step of it does nothing here."""

    recipe: ClassVar[TrainingRecipe] = TrainingRecipe()
    """How it is trained, as published."""
    when_chosen: ClassVar[Options] = MappingProxyType({})
    """Options for a fine-tune of amounts that somebody else chose, such as a search."""

    @classmethod
    def recipe_for(cls, options: Options) -> TrainingRecipe:
        """How it is trained with these options."""
        return cls.recipe

    def begin_step(self, progress: float) -> None:
        """Called before a training step, `progress` in 0 to 1 (schedules)."""

    def end_step(self) -> None:
        """Called after a training step (ranges of learned scalars)."""

    def teacher_layers(self) -> frozenset[int]:
        """Blocks whose outgoing tokens `extra_loss` wants of the uncompressed model."""
        return frozenset()

    def extra_loss(self, context: LossContext) -> Tensor | None:
        """This site's own loss terms of the last forward in training mode, weighted; a scalar.

        A training step on a CPU takes its images in chunks (of about 2,600 tokens) and the terms'
        mean over them, so a term that bends a mean over images is one of each chunk's mean.
        """
        return None

    def deploy(self) -> None:
        """Remove what only training needs."""

    @classmethod
    def emit(
        cls, reducers: Mapping[int, TokenReducer], config: CompressionConfig
    ) -> CompressionConfig:
        """What training made of the configuration: methods that learn amounts say them here."""
        return with_thresholds(config, reducers) if trains_thresholds(cls) else config


def recipe_of(method: type[TokenReducer], options: Options) -> TrainingRecipe:
    """How a method is trained with these options; the plain recipe for those that say nothing."""
    return method.recipe_for(options) if issubclass(method, Learning) else TrainingRecipe()


def options_when_chosen(method: type[TokenReducer]) -> Options:
    """Options for a fine-tune of amounts that somebody else chose, such as a search."""
    return method.when_chosen if issubclass(method, Learning) else {}
