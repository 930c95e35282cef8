"""Recipes from YAML: every key and value is checked, and a wrong one costs one sentence."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotok.backbones.autoformer import SupernetSpec
from autotok.backbones.autoformer_family import CUSTOM, SUPERNETS, supernet_structure
from autotok.backbones.supernet_file import spec_from_dict
from autotok.config import SubnetSpec
from autotok.documents import Place, read_yaml
from autotok.errors import ConfigError, nearest
from autotok.evaluation.augment import AUGMENTS
from autotok.evaluation.demo import CANVAS, DemoDigits
from autotok.finetune_spec import MOST_SEED
from autotok.plain_data import checked_keys, typed

from .recipe import Distill, Recipe, Stage
from .sampling import KINDS, SAMPLINGS

WORDS = {
    "augment": AUGMENTS,
    "position_start": ("sinusoids", "normal"),
    "sampling": SAMPLINGS,
    "schedule": ("linear", "cosine"),
    "backbone": (*SUPERNETS, CUSTOM),
}
LIMITS = {
    "steps": (1, math.inf),
    "batch_size": (1, math.inf),
    "live_tokens": (1, math.inf),
    "random_subnets": (0, math.inf),
    "seed": (0, MOST_SEED - 1),
    "warmup_steps": (0, math.inf),
    "val_every": (1, math.inf),
    "val_images": (0, math.inf),
    "test_images": (1, math.inf),
    "weight_decay": (0.0, 10.0),
    "label_smoothing": (0.0, 0.9),
    "clip_norm": (1e-6, 1e6),
    "ema_decay": (0.0, 0.99999),
    "temperature": (0.01, 100.0),
    "weight": (0.0, 1.0),
    "lr": (0.0, 1.0),
    "clutter": (0.0, 1.0),
    "weight_power": (0.0, 1.0),
    "betas": (0.0, 0.99999),
}
"""Smallest and largest value of keys that are numbers, or pairs of them."""
PAIRS = ("lr", "clutter", "weight_power")
"""Keys of a stage that change over its steps; one number stays as it is."""


def load_recipe(path: Path) -> Recipe:
    """The recipe in a file; unknown keys are refused with the nearest known one.

    Raises:
        ConfigError: a key or value that cannot be; the message names its line.
    """
    data, place = read_yaml(path, like="a recipe")
    values = checked_keys(data, Recipe, place)
    if values.get("version", 1) != 1:
        raise ConfigError(f"{place / 'version'}: is {values['version']!r}; this autotok reads 1")
    stages = values.get("stages")
    if not isinstance(stages, list) or not stages:
        raise ConfigError(f"{place / 'stages'}: must be a list of stages, at least one")
    values["stages"] = [_stage(item, place / "stages" / n) for n, item in enumerate(stages)]
    recipe = typed(Recipe, _with_structure(values, place), place)
    _check(recipe, place)
    if recipe.distill is not None:
        _check(recipe.distill, place / "distill")
    _check_together(recipe, place)
    if recipe.weights is None:
        return recipe
    return dataclasses.replace(recipe, weights=str(path.parent / recipe.weights))


def _with_structure(values: dict[str, Any], place: Place) -> dict[str, Any]:
    """The values with `spec` and `default` filled in, and the name of what they make."""
    name, given = values.get("backbone", Recipe.backbone), values.get("spec")
    _one_of("backbone", name, place)
    base: SupernetSpec | None = None
    default: SubnetSpec | None = None
    if name != CUSTOM:
        base, default = supernet_structure(name)
    elif given is None:
        raise ConfigError(f"{place}: backbone '{CUSTOM}' needs its shapes under the key 'spec'")
    if given is not None:
        values["backbone"] = CUSTOM
        base = spec_from_dict(given, place / "spec", base)
        default = base.largest()
    assert base is not None
    if values.get("default") is not None:
        default = typed(SubnetSpec, values["default"], place / "default")
        with (place / "default").named():
            base.check(default)
    return {**values, "spec": base, "default": default}


def _stage(item: object, place: Place) -> Stage:
    values = checked_keys(item, Stage, place)
    for key in PAIRS:
        if key in values and not isinstance(values[key], list):
            values[key] = [values[key], values[key]]
    stage = typed(Stage, values, place)
    _check(stage, place)
    for key, owner in (("subnets", "mixture"), ("random_subnets", "sandwich")):
        if key in values and stage.sampling != owner:
            raise ConfigError(
                f"{place / key}: belongs to sampling '{owner}', but this stage samples by"
                f" '{stage.sampling}'; leave it out"
            )
    _check_shares(stage.subnets, place / "subnets")
    return stage


def _check_shares(shares: Mapping[str, float], place: Place) -> None:
    for kind, share in shares.items():
        if kind not in KINDS:
            hint = nearest(kind, KINDS)
            raise ConfigError(f"{place / kind}: is unknown;{hint} known: {', '.join(KINDS)}")
        if not 0.0 <= share <= 1.0:
            raise ConfigError(f"{place / kind}: must be within 0 to 1, got {share}")
    if not math.isclose(sum(shares.values()), 1.0, abs_tol=1e-8):
        raise ConfigError(f"{place}: the shares add up to {sum(shares.values()):g}; make it 1")


def _check(item: Recipe | Stage | Distill, place: Place) -> None:
    """Raise where a value is outside what its key allows; its type is right already."""
    for key, value in ((f.name, getattr(item, f.name)) for f in dataclasses.fields(item)):
        if key in WORDS:
            _one_of(key, value, place)
        if value == "":
            raise ConfigError(f"{place / key}: must not be empty")
        if key in LIMITS and value is not None:
            low, high = LIMITS[key]
            if not all(low <= n <= high for n in (value if isinstance(value, tuple) else [value])):
                limits = f"{low:g} or more" if high == math.inf else f"within {low:g} to {high:g}"
                raise ConfigError(f"{place / key}: must be {limits}, got {value}")


def _one_of(key: str, value: object, place: Place) -> None:
    if value not in WORDS[key]:
        hint = nearest(str(value), WORDS[key])
        known = ", ".join(WORDS[key])
        raise ConfigError(f"{place / key}: '{value}' is unknown;{hint} known: {known}")


def _check_together(recipe: Recipe, where: Place) -> None:
    """Raise where keys that are right by themselves do not fit each other."""
    spec = recipe.spec
    canvases = recipe.data == "demo" and spec.image_shape == (1, CANVAS, CANVAS)
    for stage in recipe.stages:
        if not canvases:
            for key in ("live_tokens", "clutter", "weight_power"):
                plain = next(f.default for f in dataclasses.fields(Stage) if f.name == key)
                if getattr(stage, key) != plain:
                    raise ConfigError(
                        f"{where}: '{key}' of stage '{stage.name}' is for data 'demo' at"
                        f" {CANVAS} pixels in one channel only; leave it out"
                    )
        elif stage.live_tokens is not None:
            widest = (DemoDigits.side[1] + spec.patch_size - 2) // spec.patch_size + 1
            if not widest**2 < stage.live_tokens <= spec.grid[0] * spec.grid[1]:
                raise ConfigError(
                    f"{where}: live_tokens {stage.live_tokens} of stage '{stage.name}' must be"
                    f" more than a digit's {widest**2} patches and at most"
                    f" {spec.grid[0] * spec.grid[1]}"
                )
    if canvases and recipe.augment != "none":
        raise ConfigError(
            f"{where}: augment '{recipe.augment}' is not for data 'demo', which draws every canvas"
            " anew; leave it out"
        )
    if recipe.position_start == "sinusoids" and spec.embed_dim % 4 and recipe.weights is None:
        raise ConfigError(
            f"{where}: position_start 'sinusoids' needs an embed_dim that 4 divides, got"
            f" {spec.embed_dim}; choose normal"
        )
