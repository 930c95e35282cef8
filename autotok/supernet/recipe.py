"""A training recipe: everything needed to train a supernet again, as strict YAML."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from autotok.config import checked_keys
from autotok.errors import ConfigError

__all__ = ["Recipe", "Stage", "load_recipe"]


@dataclass(frozen=True)
class Stage:
    """A stretch of training; pairs give the value at its first and last step, linear between."""

    name: str
    steps: int
    batch_size: int
    live_tokens: int | None
    """Live patches per image; null runs the whole canvas."""
    lr: tuple[float, float]
    clutter: tuple[float, float] = (1.0, 1.0)
    weight_power: tuple[float, float] = (1.0, 1.0)
    subnets: Mapping[str, float] = field(default_factory=lambda: {"default": 1.0})

    def at(self, pair: tuple[float, float], step: int) -> float:
        """A pair's value at a step of this stage."""
        share = step / max(1, self.steps - 1)
        return pair[0] + (pair[1] - pair[0]) * share


@dataclass(frozen=True)
class Recipe:
    """What `autotok supernet train` does."""

    stages: tuple[Stage, ...]
    backbone: str = "autoformer_demo"
    data: str = "demo"
    seed: int = 0
    warmup_steps: int = 100
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    label_smoothing: float = 0.05
    clip_norm: float = 1.0
    ema_decay: float = 0.998
    bf16: bool = True
    val_every: int = 500
    """Steps between checks on whole held-out canvases."""
    val_images: int = 200
    test_images: int = 1000
    """Held-out canvases of the closing evaluation."""
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


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe; unknown keys are refused with the nearest known one."""
    try:
        data = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"recipe '{path}' cannot be read ({error})") from error
    values = checked_keys(data, Recipe, f"recipe '{path}'")
    stages = values.get("stages")
    if not isinstance(stages, list) or not stages:
        raise ConfigError(f"recipe '{path}' needs a list of stages under the key 'stages'")
    values["stages"] = tuple(_stage(item, f"recipe '{path}': stages") for item in stages)
    if "betas" in values:
        values["betas"] = tuple(values["betas"])
    recipe = Recipe(**values)
    if recipe.version != 1:
        raise ConfigError(f"recipe '{path}' has version {recipe.version}; this autotok reads 1")
    if recipe.backbone != "autoformer_demo" or recipe.data != "demo":
        raise ConfigError(
            f"recipe '{path}' asks for backbone '{recipe.backbone}' on data '{recipe.data}';"
            " only autoformer_demo on demo can be trained so far"
        )
    return recipe


def _stage(item: Any, where: str) -> Stage:
    values = checked_keys(item, Stage, where)
    missing = [
        f.name
        for f in dataclasses.fields(Stage)
        if f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
        and f.name not in values
    ]
    if missing:
        raise ConfigError(f"{where}: key '{missing[0]}' is missing")
    for key in ("lr", "clutter", "weight_power"):
        if key in values:
            given = values[key]
            pair = given if isinstance(given, list) else [given, given]
            if len(pair) != 2 or not all(isinstance(v, (int, float)) for v in pair):
                raise ConfigError(
                    f"{where}: '{key}' must be a number or [first, last], got {given}"
                )
            values[key] = (float(pair[0]), float(pair[1]))
    return Stage(**values)
