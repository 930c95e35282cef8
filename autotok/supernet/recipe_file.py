"""Recipes from YAML: every key and value is checked, and a wrong one costs one sentence."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from autotok.backbones.autoformer import SupernetSpec
from autotok.backbones.loading import CUSTOM, SUPERNETS, supernet_structure
from autotok.backbones.supernet_file import spec_from_dict
from autotok.config import SubnetSpec, checked_keys
from autotok.errors import ConfigError, nearest
from autotok.evaluation.augment import AUGMENTS
from autotok.evaluation.demo import CANVAS, DemoDigits

from .recipe import Distill, Recipe, Stage
from .sampling import KINDS, SAMPLINGS

__all__ = ["load_recipe"]

WORDS = {
    "augment": AUGMENTS,
    "position_start": ("sinusoids", "normal"),
    "sampling": SAMPLINGS,
    "schedule": ("linear", "cosine"),
    "backbone": (*SUPERNETS, CUSTOM),
}
WHOLE = {
    "steps": 1,
    "batch_size": 1,
    "random_subnets": 0,
    "seed": 0,
    "warmup_steps": 0,
    "val_every": 1,
    "val_images": 0,
    "test_images": 1,
    "version": 1,
}
"""Smallest value of keys that are whole numbers."""
RANGES = {
    "weight_decay": (0.0, 10.0),
    "label_smoothing": (0.0, 0.9),
    "clip_norm": (1e-6, 1e6),
    "ema_decay": (0.0, 0.99999),
    "temperature": (0.01, 100.0),
    "weight": (0.0, 1.0),
}
PAIRS = {"lr": (0.0, 1.0), "clutter": (0.0, 1.0), "weight_power": (0.0, 1.0)}
BETAS = (0.0, 0.99999)


def load_recipe(path: Path) -> Recipe:
    """The recipe in a file; unknown keys are refused with the nearest known one.

    Raises:
        ConfigError: a key or value that cannot be; the message names it.
    """
    where = f"recipe '{path}'"
    try:
        data = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ConfigError(f"{where} cannot be read ({reason})") from error
    values = checked_keys(data, Recipe, where)
    if values.get("version", 1) != 1:
        raise ConfigError(f"{where} has version {values['version']}; this autotok reads 1")
    stages = values.get("stages")
    if not isinstance(stages, list) or not stages:
        raise ConfigError(f"{where} needs a list of stages under the key 'stages'")
    values["stages"] = tuple(_stage(item, f"{where}: stages") for item in stages)
    if values.get("distill") is not None:
        distill = checked_keys(values["distill"], Distill, f"{where}: distill")
        values["distill"] = Distill(**_checked(distill, f"{where}: distill"))
    if values.get("weights") is not None:
        values["weights"] = str(path.parent / str(values["weights"]))
    recipe = Recipe(**_with_structure(_checked(values, where), where))
    _check_together(recipe, where)
    return recipe


def _with_structure(values: dict[str, Any], where: str) -> dict[str, Any]:
    """The values with `spec` and `default` filled in, and the name of what they make."""
    name, given = values.get("backbone", Recipe.backbone), values.get("spec")
    base: SupernetSpec | None = None
    default: SubnetSpec | None = None
    if name != CUSTOM:
        base, default = supernet_structure(name)
    elif given is None:
        raise ConfigError(f"{where}: backbone '{CUSTOM}' needs its shapes under the key 'spec'")
    if given is not None:
        values["backbone"] = CUSTOM
        base = spec_from_dict(given, f"{where}: spec", base)
        default = base.largest()
    assert base is not None
    if values.get("default") is not None:
        subnet = checked_keys(values["default"], SubnetSpec, f"{where}: default")
        try:
            default = SubnetSpec(**subnet)
            base.check(default)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{where}: default: {error}") from error
    return {**values, "spec": base, "default": default}


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
    if values.get("live_tokens") is not None:
        _whole("live_tokens", values["live_tokens"], 1, where)
    sampling = values.get("sampling", Stage.sampling)
    for key, owner in (("subnets", "mixture"), ("random_subnets", "sandwich")):
        if key in values and sampling != owner:
            raise ConfigError(
                f"{where}: '{key}' belongs to sampling '{owner}', but this stage samples by"
                f" '{sampling}'; leave it out"
            )
    if "subnets" in values:
        values["subnets"] = _shares(values["subnets"], where)
    return Stage(**_checked(values, where))


def _shares(given: Any, where: str) -> dict[str, float]:
    if not isinstance(given, Mapping) or not given:
        raise ConfigError(f"{where}: 'subnets' must map kinds of subnet to shares, got {given!r}")
    for kind, share in given.items():
        if kind not in KINDS:
            hint = nearest(str(kind), KINDS)
            raise ConfigError(
                f"{where}: subnet kind '{kind}' is unknown;{hint} known: {', '.join(KINDS)}"
            )
        _number(f"subnets: {kind}", share, (0.0, 1.0), where)
    if not math.isclose(sum(given.values()), 1.0, abs_tol=1e-8):
        total = sum(given.values())
        raise ConfigError(f"{where}: shares under 'subnets' add up to {total:g}; make it 1")
    return dict(given)


def _checked(values: dict[str, Any], where: str) -> dict[str, Any]:
    """The values, each held to what its key allows; numbers and pairs as floats."""
    for key, value in values.items():
        if key in WORDS and value not in WORDS[key]:
            hint = nearest(str(value), WORDS[key])
            known = ", ".join(WORDS[key])
            raise ConfigError(f"{where}: {key} '{value}' is unknown;{hint} known: {known}")
        if key in WHOLE:
            _whole(key, value, WHOLE[key], where)
        elif key in RANGES:
            values[key] = _number(key, value, RANGES[key], where)
        elif key in PAIRS:
            values[key] = _pair(key, value, PAIRS[key], where)
        elif key == "betas":
            if not isinstance(value, (list, tuple)):
                raise ConfigError(f"{where}: 'betas' must be two numbers, got {value!r}")
            values[key] = _pair(key, value, BETAS, where)
        elif key == "bf16" and not isinstance(value, bool):
            raise ConfigError(f"{where}: 'bf16' must be true or false, got {value!r}")
        elif key in ("data", "name") and not (isinstance(value, str) and value):
            raise ConfigError(f"{where}: '{key}' must be a name, got {value!r}")
    return values


def _whole(key: str, value: Any, least: int, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{where}: '{key}' must be a whole number from {least} up, got {value!r}")


def _number(key: str, value: Any, limits: tuple[float, float], where: str) -> float:
    good = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not good or not limits[0] <= value <= limits[1]:
        raise ConfigError(
            f"{where}: '{key}' must be a number within {limits[0]:g} to {limits[1]:g},"
            f" got {value!r}"
        )
    return float(value)


def _pair(key: str, value: Any, limits: tuple[float, float], where: str) -> tuple[float, float]:
    pair = list(value) if isinstance(value, (list, tuple)) else [value, value]
    if len(pair) != 2 or not all(isinstance(v, (int, float)) for v in pair):
        raise ConfigError(f"{where}: '{key}' must be a number or [first, last], got {value!r}")
    return _number(key, pair[0], limits, where), _number(key, pair[1], limits, where)


def _check_together(recipe: Recipe, where: str) -> None:
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
