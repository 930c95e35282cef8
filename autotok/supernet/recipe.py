"""A training recipe: everything needed to train a supernet again, as strict YAML."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from autotok.backbones.autoformer import SupernetSpec
from autotok.config import SubnetSpec


@dataclass(frozen=True)
class Distill:
    """In-place distillation: the largest subnet of the same step teaches the others.

    Their loss is (1 - weight) * cross-entropy + weight * temperature^2 * KL(teacher || student),
    with the teacher's logits detached. BigNAS is weight 1, which learns slowly from scratch: early
    on, following a teacher that knows nothing holds the shared weights back.
    """

    weight: float = 0.5
    temperature: float = 1.0


@dataclass(frozen=True)
class Stage:
    """A stretch of training; pairs give the value at its first and last step."""

    name: str
    steps: int
    batch_size: int
    lr: tuple[float, float]
    live_tokens: int | None = None
    """Live patches per demo canvas; None runs whole images."""
    schedule: str = "linear"
    """Of the learning rate: 'linear' or 'cosine'."""
    clutter: tuple[float, float] = (1.0, 1.0)
    weight_power: tuple[float, float] = (1.0, 1.0)
    sampling: str = "mixture"
    """'mixture' (one subnet a step, by `subnets`), 'uniform' (one, drawn as AutoFormer does) or
    'sandwich' (largest, smallest and `random_subnets`, gradients added)."""
    subnets: Mapping[str, float] = field(default_factory=lambda: {"default": 1.0})
    random_subnets: int = 2

    def at(self, pair: tuple[float, float], step: int) -> float:
        """A pair's value at a step of this stage, linear between its ends."""
        share = step / max(1, self.steps - 1)
        return pair[0] + (pair[1] - pair[0]) * share

    def lr_at(self, step: int) -> float:
        """The learning rate at a step of this stage, but for the recipe's warm-up."""
        if self.schedule == "linear":
            return self.at(self.lr, step)
        share = step / max(1, self.steps - 1)
        return self.lr[1] + (self.lr[0] - self.lr[1]) * 0.5 * (1.0 + math.cos(math.pi * share))


@dataclass(frozen=True)
class Recipe:
    """What `autotok supernet train` does; `recipe_file.load_recipe` reads one."""

    stages: tuple[Stage, ...]
    spec: SupernetSpec
    """In the file: fields that replace the backbone's own, all of them for autoformer_custom."""
    default: SubnetSpec
    backbone: str = "autoformer_demo"
    data: str = "demo"
    augment: str = "none"
    """'none' or 'crop-flip'; not for the demo, which draws every canvas anew."""
    weights: str | None = None
    """File to start from, relative to the recipe: official `.pth`, or safetensors."""
    position_start: str = "sinusoids"
    """What the position table starts from: 'sinusoids' or 'normal'."""
    distill: Distill | None = None
    seed: int = 0
    warmup_steps: int = 100
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    label_smoothing: float = 0.05
    clip_norm: float = 1.0
    ema_decay: float = 0.998
    bf16: bool = True
    val_every: int = 500
    """Steps between checks on whole held-out images, and between checkpoints."""
    val_images: int = 200
    test_images: int = 1000
    """Held-out images of the closing evaluation."""
    version: int = 1

    @property
    def steps(self) -> int:
        """Steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    def locate(self, step: int) -> tuple[Stage, int]:
        """The stage that a global step belongs to, and the step within it."""
        for stage in self.stages:
            if step < stage.steps:
                return stage, step
            step -= stage.steps
        raise AssertionError(f"step {step} is past the end")

    def lr_at(self, step: int) -> float:
        """The learning rate in force at a global step: its stage's, under the warm-up."""
        stage, local = self.locate(step)
        return stage.lr_at(local) * min(1.0, (step + 1) / max(1, self.warmup_steps))

    def images_before(self, step: int) -> int:
        """Images that the steps before `step` have used."""
        used = 0
        for stage in self.stages:
            used += min(step, stage.steps) * stage.batch_size
            step = max(0, step - stage.steps)
        return used

    def past(self, step: int) -> dict[str, Any]:
        """Everything that the weights after `step` steps depend on, as plain data."""
        data = dataclasses.asdict(dataclasses.replace(self, stages=()))
        for key in ("stages", "weights", "val_every", "val_images", "test_images", "version"):
            del data[key]
        begins = 0
        for number, stage in enumerate(self.stages):
            if begins < step:
                data[f"stage {number + 1}"] = dataclasses.asdict(stage)
            begins += stage.steps
        return data
