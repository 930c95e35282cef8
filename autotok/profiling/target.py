"""`Target`: what is known about a device, every number with its source. Files in `targets/`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import yaml

from autotok.config import checked_keys
from autotok.errors import ConfigError, UnknownName

from .target_parts import Calibration, Number, Point, Reference, Setting, Terms

__all__ = [
    "Calibration",
    "Number",
    "Point",
    "Reference",
    "Setting",
    "Target",
    "Terms",
    "list_targets",
    "load_target",
]

T = TypeVar("T")
KINDS = ("gpu", "cpu")


@dataclass(frozen=True, eq=False)
class Target:
    """A device as predictions see it; compared and hashed by identity."""

    name: str
    title: str
    kind: str
    memory_mb: Number
    shared_memory: bool
    """One memory for processor and accelerator: system and other programs live in it too."""
    peak_gmacs: Mapping[str, Number]
    """Peak 1e9 multiply-accumulates a second by dtype."""
    bandwidth_gb_s: Number
    settings: Mapping[str, Setting]
    default_dtype: str = "float32"
    default_batch: int = 1
    checked_against: tuple[Point, ...] = ()
    notes: tuple[str, ...] = field(default=())
    calibration: Calibration | None = None
    """Where `autotok calibrate` made the terms of the eager setting."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "peak_gmacs", MappingProxyType(dict(self.peak_gmacs)))
        object.__setattr__(self, "settings", MappingProxyType(dict(self.settings)))
        if self.kind not in KINDS:
            raise ConfigError(f"kind '{self.kind}' is unknown; choose one of: {', '.join(KINDS)}")
        if self.default_dtype not in self.peak_gmacs:
            raise ConfigError(f"default_dtype '{self.default_dtype}' has no entry in peak_gmacs")
        if "eager" not in self.settings:
            raise ConfigError("settings must describe at least 'eager'")
        wanted = [self.memory_mb, self.bandwidth_gb_s, *self.peak_gmacs.values()]
        if min(number.value for number in wanted) <= 0:
            raise ConfigError("memory_mb, peak_gmacs and bandwidth_gb_s must be above 0")

    @property
    def is_checked(self) -> bool:
        """Whether any prediction was ever held against a published or measured figure."""
        return bool(self.checked_against) or self.calibration is not None

    def setting(self, name: str = "eager") -> Setting:
        """An execution setting by name."""
        if name not in self.settings:
            raise UnknownName(f"setting of target '{self.name}'", name, self.settings)
        return self.settings[name]

    def peak(self, dtype: str) -> float:
        """Peak 1e9 multiply-accumulates a second in a dtype."""
        if dtype not in self.peak_gmacs:
            raise UnknownName(f"dtype of target '{self.name}'", dtype, self.peak_gmacs)
        return self.peak_gmacs[dtype].value

    def numbers(self) -> list[tuple[str, Number]]:
        """Every number with its source, in reading order."""
        rows = [("memory_mb", self.memory_mb), ("bandwidth_gb_s", self.bandwidth_gb_s)]
        rows += [(f"peak_gmacs {dtype}", number) for dtype, number in self.peak_gmacs.items()]
        for name, setting in self.settings.items():
            for item in dataclasses.fields(setting):
                value = getattr(setting, item.name)
                if isinstance(value, Number):
                    rows.append((f"{name} {item.name}", value))
            rows += [(f"{name} efficiency {k}", n) for k, n in setting.efficiency.items()]
            if setting.terms is not None:
                times = setting.terms.microseconds.items()
                rows += [(f"{name} us per {k}", Number(v, setting.terms.source)) for k, v in times]
        return rows


def list_targets() -> list[str]:
    """Names of the targets shipped with autotok, sorted."""
    folder = files("autotok.profiling").joinpath("targets")
    return sorted(
        p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml")
    )


@cache
def load_target(name: str | Path) -> Target:
    """A shipped target by name, or one's own by the path of its YAML file.

    Raises:
        UnknownName: no such target and no such file.
        ConfigError: the file is not a valid target; the message names the key at fault.
    """
    text = str(name)
    if text in list_targets():
        source = files("autotok.profiling").joinpath("targets").joinpath(f"{text}.yaml")
        return _parse(source.read_text("utf-8"), f"target '{text}'")
    path = Path(text)
    if not path.is_file():
        if path.suffix in (".yaml", ".yml"):
            raise ConfigError(
                f"target file '{path}' does not exist; give its path or a target name"
            )
        raise UnknownName("target", text, list_targets())
    try:
        content = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"target file '{path}' cannot be read: {error}") from error
    return _parse(content, f"target file '{path}'")


def _parse(text: str, where: str) -> Target:
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"
        raise ConfigError(
            f"{where} is not valid YAML{place}; mend it, or see a good one with"
            " `autotok targets show local --json`"
        ) from error
    values = checked_keys(data, Target, where)
    for key in ("memory_mb", "bandwidth_gb_s"):
        if key in values:
            values[key] = _build(Number, values[key], f"{where}: {key}")
    values["peak_gmacs"] = _numbers(values.get("peak_gmacs"), f"{where}: peak_gmacs")
    values["settings"] = {
        key: _setting(value, f"{where}: settings: {key}")
        for key, value in _mapping(values.get("settings"), f"{where}: settings").items()
    }
    values["checked_against"] = tuple(
        _point(item, f"{where}: checked_against[{index}]")
        for index, item in enumerate(values.get("checked_against") or ())
    )
    values["notes"] = tuple(values.get("notes") or ())
    if values.get("calibration") is not None:
        values["calibration"] = _build(Calibration, values["calibration"], f"{where}: calibration")
    return _build(Target, values, where)


def _setting(data: object, where: str) -> Setting:
    values = checked_keys(data, Setting, where)
    for item in dataclasses.fields(Setting):
        if str(item.type).startswith("Number") and values.get(item.name) is not None:
            values[item.name] = _build(Number, values[item.name], f"{where}: {item.name}")
    values["efficiency"] = _numbers(values.get("efficiency"), f"{where}: efficiency")
    if values.get("terms") is not None:
        values["terms"] = _build(Terms, values["terms"], f"{where}: terms")
    return _build(Setting, values, where)


def _point(data: object, where: str) -> Point:
    values = checked_keys(data, Point, where)
    if values.get("reference") is not None:
        values["reference"] = _build(Reference, values["reference"], f"{where}: reference")
    return _build(Point, values, where)


def _numbers(data: object, where: str) -> dict[str, Number]:
    return {
        str(key): _build(Number, value, f"{where}: {key}")
        for key, value in _mapping(data, where).items()
    }


def _mapping(data: object, where: str) -> Mapping[str, object]:
    if not isinstance(data, Mapping) or not data:
        raise ConfigError(f"{where} must be a mapping with at least one entry, got {data!r}")
    return data


def _build(cls: type[T], data: object, where: str) -> T:
    values = checked_keys(data, cls, where)
    missing = [
        item.name
        for item in dataclasses.fields(cls)  # type: ignore[arg-type]
        if item.name not in values
        and item.default is dataclasses.MISSING
        and item.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{where} lacks the key '{missing[0]}'")
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where} has a value of the wrong type: {error}") from error
