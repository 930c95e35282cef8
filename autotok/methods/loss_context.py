"""How a method is trained: its published recipe, and what its own loss terms may look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from autotok.tokens import Tokens

__all__ = ["LossContext", "TrainingRecipe"]


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
    """(B,)."""
    teacher_logits: Tensor | None = None
    """(B, classes) of the uncompressed model."""
    teacher: Mapping[int, Tensor] = field(default_factory=dict)
    """Per block asked for by `teacher_layers`: its outgoing tokens (B, P + N0, C) there."""
    progress: float = 0.0
    """0 to 1 through the fine-tune."""
