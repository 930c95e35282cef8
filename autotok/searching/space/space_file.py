"""Search spaces as YAML files: `load_space`, strict about keys and values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autotok.config import MODES, NUMBERS, CompressionConfig, Primitive
from autotok.documents import Place, read_yaml
from autotok.errors import ConfigError, nearest
from autotok.finetune_spec import FineTuneSpec
from autotok.methods.registry import get_method, list_methods
from autotok.names import SUBNETS
from autotok.plain_data import typed
from autotok.training.losses import get_loss

from .exit_answers import exit_answers
from .finetuning import PREFIX, FineTuneChoices, parse_losses
from .parameters import Condition
from .search_space import FAMILIES, SearchSpace
from .space_names import find_space


def load_space(name_or_path: str | Path) -> SearchSpace:
    """A space by name (see `list_spaces`) or from a YAML file.

    Raises:
        UnknownName, ConfigError: no such space, or a key or value that cannot be.
    """
    path = find_space(name_or_path)
    data, place = read_yaml(path, like="a search space")
    return space_from_dict(data, where=place, name=path.stem)


Words = str | tuple[str, ...]
Answers = Primitive | tuple[Primitive, ...]
Range = float | tuple[float, ...]


@dataclass(frozen=True)
class _Schedule:
    families: Words | None = None
    first_layer: Range | None = None
    num_stages: Range | None = None
    spacing: Range | None = None
    taper: Range | None = None
    inflection: Range | None = None


@dataclass(frozen=True)
class _Condition:
    when: Mapping[str, Answers] = field(default_factory=dict)
    then: Mapping[str, Answers] = field(default_factory=dict)


@dataclass(frozen=True)
class _SpaceFile:
    """The keys of a space file, by their types."""

    version: int = 1
    methods: Words | None = None
    exclude: Words | None = None
    mode: Words | None = None
    formats: Words | None = None
    image_size: int | tuple[int, ...] | None = None
    subnet: str | None = None
    exits: Words | None = None
    exit_share: Range | None = None
    schedule: _Schedule | None = None
    budget_fraction: Range | None = None
    options: Mapping[str, Mapping[str, Answers]] | None = None
    conditions: tuple[_Condition, ...] | None = None
    finetune: Mapping[str, Answers] | None = None


_LIMITS: dict[str, tuple[float, float]] = {
    "first_layer": (0.0, 1.0),
    "num_stages": (1, 12),
    "spacing": (0.0, 1.0),
    "taper": (0.1, 10.0),
    "inflection": (-1.0, 1.0),
    "budget_fraction": (0.0, 1.0),
    "exit_share": (0.0, 1.0),
}

_ASKED = ("backbone", "method", "exits", "mode", "number_format", "image_size", "family")
"""What else a space asks, beside those of `_LIMITS`, options of methods and of fine-tunes."""


def space_from_dict(
    data: object, *, where: Place | str = "search space", name: str = "custom"
) -> SearchSpace:
    """A space from plain data; unknown keys are refused with the nearest known one."""
    place = where if isinstance(where, Place) else Place(where)
    file = typed(_SpaceFile, data, place)
    if file.version != 1:
        raise ConfigError(f"{place / 'version'}: this autotok reads version 1 only")
    schedule, below = file.schedule or _Schedule(), place / "schedule"
    found: dict[str, Any] = {"name": name}
    for key, given, at, known in (
        ("methods", file.methods, place, None),
        ("exclude", file.exclude, place, None),
        ("mode", file.mode, place, MODES),
        ("formats", file.formats, place, NUMBERS),
        ("families", schedule.families, below, FAMILIES),
    ):
        if given is not None:
            found[key] = _words(given, known, at / key)
    if file.subnet is not None:
        found["subnet"] = _words(file.subnet, SUBNETS, place / "subnet")[0]
    if "formats" in found:
        found["number_formats"] = found.pop("formats")
    if file.image_size is not None:
        with (place / "image_size").named():
            found["image_sizes"] = image_sides(file.image_size)
    if file.exits is not None:
        with (place / "exits").named():
            found["exits"] = exit_answers(_words(file.exits, None, place / "exits"))
    for key in ("methods", "exclude"):
        for method in found.get(key, ()):
            with (place / key).named():
                if method != "plug-in":
                    get_method(method)
    for key, limits in _LIMITS.items():
        owner, at = (file, place) if hasattr(file, key) else (schedule, below)
        if getattr(owner, key) is not None:
            found[key] = _range(getattr(owner, key), limits, at / key)
    if file.finetune is not None:
        found["finetune"] = _finetune(file.finetune, place / "finetune")
    found["options"] = _options(file.options or {}, place / "options")
    found["conditions"] = tuple(
        _condition(item, place / "conditions" / number)
        for number, item in enumerate(file.conditions or ())
    )
    return SearchSpace(**found)


def check_exits_fit(space: SearchSpace, subnet: str) -> None:
    """Raise where a space asks for exits together with what trained heads cannot follow.

    Raises:
        ConfigError: names it.
    """
    asked = {
        "mode retrain alone": space.mode == ("retrain",),
        f"formats {', '.join(space.number_formats)}": space.number_formats != ("float32",),
        "image_size": bool(space.image_sizes),
        "subnet search": "search" in (subnet, space.subnet),
    }
    for what in (words for words, is_asked in asked.items() if space.exits and is_asked):
        raise ConfigError(
            f"space '{space.name}' searches exits and {what}, but heads answer only for the weights"
            " and the size they were trained with, and no file holds them; leave one of the two out"
        )


def image_sides(given: int | Sequence[int]) -> tuple[int, ...]:
    """Sides of images in pixels, smallest first, each once.

    Raises:
        ConfigError: none is given, or one is no side of an image.
    """
    sides = tuple(sorted({given} if isinstance(given, int) else {*given}))
    if not sides:
        raise ConfigError("image sizes are an empty list; give at least one, or leave them out")
    for side in sides:
        CompressionConfig(image_size=side)
    return sides


def _known(data: Mapping[str, Any], keys: Sequence[str], place: Place) -> None:
    for key in data:
        if key not in keys:
            hint = nearest(key, keys)
            raise ConfigError(
                f"{place.holding(key)}: key '{key}' is unknown;{hint} known: {', '.join(keys)}"
            )


def _condition(given: _Condition, place: Place) -> Condition:
    """With names that some space asks; whether it allows the answers depends on the rest of it."""
    options = [f"{m}.{o.name}" for m in list_methods() for o in get_method(m).options]
    tuned = [f"{PREFIX}{field.name}" for field in dataclasses.fields(FineTuneSpec)]
    names = [*_ASKED, *_LIMITS, *tuned, *options]
    for part in ("when", "then"):
        for key in getattr(given, part):
            if key not in names and not key.startswith("subnet."):
                raise ConfigError(
                    f"{(place / part).holding(key)}: a space has no parameter '{key}';"
                    f"{nearest(key, names)} known: {', '.join([*_ASKED, *_LIMITS])}, subnet.* and"
                    " options as method.option"
                )
    return Condition(_several(given.when), _several(given.then))


def _several(data: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """One answer as a tuple of one."""
    return {key: v if isinstance(v, tuple) else (v,) for key, v in data.items()}


def _words(value: Words, known: Sequence[str] | None, place: Place) -> tuple[str, ...]:
    words = (value,) if isinstance(value, str) else value
    for word in words:
        if known is not None and word not in known:
            raise ConfigError(
                f"{place}: '{word}' is unknown;{nearest(word, known)} known: {', '.join(known)}"
            )
    return words


def _range(value: Any, limits: tuple[float, float], place: Place) -> tuple[float, float]:
    pair = value if isinstance(value, tuple) else (value, value)
    low, high = limits
    if len(pair) != 2 or not low <= pair[0] <= pair[1] <= high:
        raise ConfigError(f"{place}: is {list(pair)}; give [low, high] within {low:g} to {high:g}")
    return pair[0], pair[1]


def _finetune(data: Mapping[str, Any], place: Place) -> FineTuneChoices:
    _known(data, [f.name for f in dataclasses.fields(FineTuneSpec)], place)
    choices = _several(data)
    for name, values in choices.items():
        if not values:
            raise ConfigError(f"{place / name}: is an empty list; give at least one value")
    with place.named():
        for text in choices.get("losses", ()):
            for loss in parse_losses(str(text)):
                get_loss(loss)
        return FineTuneChoices(choices)


def _options(data: Mapping[str, Any], place: Place) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, rules in data.items():
        with place.named():
            method = get_method(name)
        _known(rules, [option.name for option in method.options], place / name)
        for key, values in _several(rules).items():
            with (place / name / key).named():
                for value in values:
                    if value != "default":
                        method.resolve_options({key: value})
        found[method.name] = {k: list(v) if isinstance(v, tuple) else v for k, v in rules.items()}
    return found
