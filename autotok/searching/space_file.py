"""Search spaces as YAML files: `load_space`, strict about keys and values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from autotok.config import MODES, FineTuneSpec
from autotok.errors import ConfigError, UnknownName, nearest
from autotok.methods.registry import get_method
from autotok.training.losses import get_loss

from .finetuning import FineTuneChoices, parse_losses
from .space import FAMILIES, Condition, SearchSpace

__all__ = ["list_spaces", "load_space", "space_from_dict"]

_SCHEDULE = ("families", "first_layer", "num_stages", "spacing", "taper", "inflection")
_KEYS = (
    "version",
    "methods",
    "exclude",
    "mode",
    "schedule",
    "budget_fraction",
    "options",
    "conditions",
    "finetune",
)


def _folders() -> list[Path]:
    package = Path(__file__).resolve().parents[1]
    return [package / "search_spaces", package.parent / "search_spaces"]


def list_spaces() -> list[str]:
    """Names of the spaces that come with autotok."""
    return sorted({path.stem for folder in _folders() for path in folder.glob("*.yaml")})


def load_space(name_or_path: str | Path) -> SearchSpace:
    """A space by name (see `list_spaces`) or from a YAML file.

    Raises:
        UnknownName, ConfigError: no such space, or a key or value that cannot be.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        paths = [folder / f"{name_or_path}.yaml" for folder in _folders()]
        path = next((p for p in paths if p.is_file()), path)
        if not path.is_file():
            raise UnknownName("search space", str(name_or_path), list_spaces())
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"search space file {path} cannot be read: {reason}") from error
    return space_from_dict(data, where=f"search space {path.name}", name=path.stem)


def space_from_dict(
    data: object, *, where: str = "search space", name: str = "custom"
) -> SearchSpace:
    """A space from plain data; unknown keys are refused with the nearest known one."""
    values = _known(data, _KEYS, where)
    schedule = _known(values.pop("schedule", {}) or {}, _SCHEDULE, f"{where}: schedule")
    if values.pop("version", 1) != 1:
        raise ConfigError(f"{where}: this autotok reads version 1 only")
    found: dict[str, Any] = {"name": name}
    for key, known in (("methods", None), ("exclude", None), ("mode", MODES)):
        if key in values:
            found[key] = _words(values[key], known, f"{where}: {key}")
    for method in (*found.get("methods", ()), *found.get("exclude", ())):
        if method != "plug-in":
            get_method(method)
    if "finetune" in values:
        found["finetune"] = _finetune(values["finetune"], f"{where}: finetune")
    if "families" in schedule:
        found["families"] = _words(schedule.pop("families"), FAMILIES, f"{where}: families")
    for key, (low, high) in _LIMITS.items():
        source = values if key in values else schedule
        if key in source:
            found[key] = _range(source[key], low, high, f"{where}: {key}")
    found["options"] = _options(values.get("options") or {}, where)
    found["conditions"] = _conditions(values.get("conditions") or [], where)
    return SearchSpace(**found)


_LIMITS: dict[str, tuple[float, float]] = {
    "first_layer": (0.0, 1.0),
    "num_stages": (1, 12),
    "spacing": (0.0, 1.0),
    "taper": (0.1, 10.0),
    "inflection": (-1.0, 1.0),
    "budget_fraction": (0.0, 1.0),
}


def _known(data: object, keys: Sequence[str], where: str) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where} must be a mapping, got {type(data).__name__}")
    for key in data:
        if key not in keys:
            hint = nearest(str(key), keys)
            raise ConfigError(f"{where}: key '{key}' is unknown;{hint} known: {', '.join(keys)}")
    return dict(data)


def _words(value: object, known: Sequence[str] | None, where: str) -> tuple[str, ...]:
    words = tuple(str(v) for v in value) if isinstance(value, list) else (str(value),)
    for word in words:
        if known is not None and word not in known:
            raise ConfigError(
                f"{where} '{word}' is unknown;{nearest(word, known)} known: {', '.join(known)}"
            )
    return words


def _range(value: Any, low: float, high: float, where: str) -> tuple[float, float]:
    pair = value if isinstance(value, list) else [value, value]
    numeric = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in pair)
    if len(pair) != 2 or not numeric or not low <= pair[0] <= pair[1] <= high:
        raise ConfigError(f"{where} is {value!r}; give [low, high] within {low:g} to {high:g}")
    return pair[0], pair[1]


def _finetune(data: object, where: str) -> FineTuneChoices:
    known = [f.name for f in dataclasses.fields(FineTuneSpec)]
    choices = {}
    for name, rule in _known(data or {}, known, where).items():
        values = rule if isinstance(rule, list) else [rule]
        if not values:
            raise ConfigError(f"{where}: '{name}' is an empty list; give at least one value")
        choices[name] = tuple(values)
    for text in choices.get("losses", ()):
        for loss in parse_losses(str(text)):
            get_loss(loss)
    return FineTuneChoices(choices)


def _options(data: object, where: str) -> dict[str, dict[str, Any]]:
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: options must map methods to their options")
    found: dict[str, dict[str, Any]] = {}
    for name, rules in data.items():
        method = get_method(str(name))
        known = [option.name for option in method.options]
        found[method.name] = _known(rules, known, f"{where}: options of {name}")
        for key, rule in found[method.name].items():
            for value in rule if isinstance(rule, list) else [rule]:
                if value != "default":
                    method.resolve_options({key: value})
    return found


def _conditions(data: object, where: str) -> tuple[Condition, ...]:
    if not isinstance(data, list):
        raise ConfigError(f"{where}: conditions must be a list of when/then")
    found = []
    for item in data:
        parts = _known(item, ("when", "then"), f"{where}: conditions")
        sides = [
            {str(k): tuple(v) if isinstance(v, list) else (v,) for k, v in side.items()}
            for side in (parts.get("when", {}), parts.get("then", {}))
        ]
        found.append(Condition(sides[0], sides[1]))
    return tuple(found)
