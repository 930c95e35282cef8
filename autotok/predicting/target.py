"""`Target`: what is known about a device, every number with its source. Files in `targets/`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType

from autotok.documents import parse_yaml, read_yaml
from autotok.errors import ConfigError, UnknownName
from autotok.names import check_number, known
from autotok.plain_data import typed

from .target_parts import (
    DTYPES,
    STORED_AS,
    CalibrationRecord,
    Number,
    PublishedPoint,
    Setting,
    check_choice,
)

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
    checked_against: tuple[PublishedPoint, ...] = ()
    notes: tuple[str, ...] = field(default=())
    calibration: CalibrationRecord | None = None
    """Where `autotok calibrate` made the terms of the eager setting."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "peak_gmacs", MappingProxyType(dict(self.peak_gmacs)))
        object.__setattr__(self, "settings", MappingProxyType(dict(self.settings)))
        check_choice("kind", self.kind, KINDS)
        for name, given in (("peak_gmacs", self.peak_gmacs), ("settings", self.settings)):
            if not given:
                raise ConfigError(f"{name} must have at least one entry")
        for dtype in self.peak_gmacs:
            check_choice("dtype of peak_gmacs", dtype, DTYPES)
        if self.default_dtype not in self.peak_gmacs:
            raise ConfigError(f"default_dtype '{self.default_dtype}' has no entry in peak_gmacs")
        check_choice("default_dtype", self.default_dtype, STORED_AS)
        check_number("default_batch", self.default_batch)
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
        known(f"setting of target '{self.name}'", name, self.settings)
        return self.settings[name]

    def peak(self, dtype: str) -> float:
        """Peak 1e9 multiply-accumulates a second in a dtype."""
        return self.peak_gmacs[
            known(f"dtype of target '{self.name}'", dtype, self.peak_gmacs)
        ].value

    def check_dtype(self, dtype: str) -> None:
        """Raise unless predictions can be made in a number format.

        Raises:
            UnknownName: the target has no peak for it.
            ConfigError: it cannot be predicted, or the target was calibrated in another.
        """
        self.peak(dtype)
        able = [name for name in self.peak_gmacs if name in STORED_AS]
        if dtype not in able:
            raise ConfigError(
                f"latency in {dtype} cannot be predicted for target '{self.name}', only measured;"
                f" choose one of: {', '.join(able)}"
            )
        if self.calibration is not None and dtype != self.calibration.dtype:
            raise ConfigError(
                f"target '{self.name}' was calibrated in {self.calibration.dtype} and says nothing"
                f" of {dtype}; leave dtype out, or calibrate a target in {dtype}"
            )

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
    folder = files("autotok.predicting").joinpath("targets")
    return sorted(
        p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml")
    )


def load_target(name: str | Path) -> Target:
    """A shipped target by name, or one's own by the path of its YAML file, as the file is now.

    Raises:
        UnknownName: no such target and no such file.
        ConfigError: the file is not a valid target; the message names the key at fault.
    """
    text = str(name)
    if text in list_targets():
        return _shipped(text)
    path = Path(text)
    if not path.is_file():
        if path.suffix in (".yaml", ".yml"):
            raise ConfigError(
                f"target file '{path}' does not exist; give its path or a target name"
            )
        raise UnknownName("target", text, list_targets())
    now = path.stat()
    return _own(path, path.resolve(), (now.st_ino, now.st_mtime_ns, now.st_size))


@cache
def _shipped(name: str) -> Target:
    source = files("autotok.predicting").joinpath("targets").joinpath(f"{name}.yaml")
    return typed(Target, *parse_yaml(source.read_text("utf-8"), source.name))


@lru_cache(maxsize=64)
def _own(path: Path, place: Path, state: tuple[int, int, int]) -> Target:
    """The target of a file in this state: one object, as what is known of it is kept with it."""
    return typed(Target, *read_yaml(path))
