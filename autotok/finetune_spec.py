"""`FineTuneSpec`: how weights of a retrained configuration come about; `Length`: for how long."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from autotok.documents import Place
from autotok.errors import ConfigError
from autotok.plain_data import typed

MOST_SEED = 2**32
"""Seeds are below: torch and NumPy take these alike."""
LENGTH_UNITS = ("steps", "epochs", "minutes")
_FINETUNE_RANGES: tuple[tuple[str, float, float], ...] = (
    ("temperature", 0.01, 100.0),
    ("lr", 1e-8, 1.0),
    ("batch_size", 1, 65536),
    ("accumulate", 1, 65536),
    ("warmup", 0.0, 1.0),
    ("weight_decay", 0.0, 10.0),
    ("clip_norm", 0.0, 1e6),
    ("ema_decay", 0.0, 0.99999),
    ("label_smoothing", 0.0, 0.9),
    ("mixup", 0.0, 100.0),
    ("cutmix", 0.0, 100.0),
    ("random_erasing", 0.0, 1.0),
    ("drop_path", 0.0, 0.9),
    ("seed", 0, MOST_SEED - 1),
)
_RANDAUGMENT = re.compile(r"rand(-((m|n|mmax|inc)\d+|(p|mstd)\d+(\.\d+)?))*")
"""timm's notation; it reads decimals in two parts alone."""


def check_seed(seed: int) -> None:
    """Raise `ConfigError` unless torch and NumPy both take a seed."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < MOST_SEED:
        raise ConfigError(f"seed is {seed}; give a whole number from 0 to {MOST_SEED - 1}")


@dataclass(frozen=True)
class Length:
    """How long to fine-tune: a number of optimiser steps, passes over the data, or minutes."""

    amount: float
    unit: str

    @classmethod
    def parse(cls, text: str | int) -> Length:
        """'200 steps', '3 epochs' or '5 minutes'; a bare whole number means steps."""
        words = str(text).split()
        unit = words[1].rstrip("s") + "s" if len(words) == 2 else "steps"
        try:
            amount = float(words[0])
        except (ValueError, IndexError):
            amount = math.nan
        whole = unit != "steps" or amount == round(amount, 0)
        if len(words) > 2 or unit not in LENGTH_UNITS or not 0 < amount < math.inf or not whole:
            raise ConfigError(
                f"fine-tune length '{text}' is not understood; give '200 steps', '3 epochs' or"
                " '5 minutes'"
            )
        return cls(amount, unit)

    def __str__(self) -> str:
        whole = float(self.amount).is_integer()
        return f"{int(self.amount) if whole else repr(self.amount)} {self.unit}"


@dataclass(frozen=True)
class FineTuneSpec:
    """How the weights of a retrained configuration come about, apart from the data.

    Everything that changes the result is here, so that configuration and data together name it.
    """

    length: str = "200 steps"
    losses: Mapping[str, float] = field(default_factory=lambda: {"soft": 1.0})
    """Weight per loss name; see `autotok.training.losses`."""
    temperature: float = 1.0
    """Of the soft-logit losses."""
    lr: float | None = None
    """Highest learning rate; None, or 'auto', leaves it to a probe (`autotok.training.probe`)."""
    batch_size: int = 16
    accumulate: int = 1
    """Batches per optimiser step."""
    warmup: float = 0.1
    """Share of the steps."""
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    ema_decay: float = 0.0
    """0 keeps the last weights; above, their exponential moving average."""
    label_smoothing: float = 0.0
    augment: str = "none"
    seed: int = 0
    mixup: float = 0.0
    """alpha of the Beta distribution that two images are mixed by; 0: not at all."""
    cutmix: float = 0.0
    """The same of rectangles that are swapped; with both, every second batch on average."""
    randaugment: str = ""
    """As timm writes it: rand-m9-mstd0.5-inc1."""
    random_erasing: float = 0.0
    """Share of the images in which a rectangle is replaced by noise."""
    drop_path: float = 0.0
    """Stochastic depth: how often the last block's branches are left out of an image."""
    teacher: str | None = None
    """Name of another model to learn from; None: the uncompressed one."""
    teacher_checkpoint: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "length", str(Length.parse(self.length)))
        object.__setattr__(self, "losses", MappingProxyType(dict(sorted(self.losses.items()))))
        if not self.losses:
            raise ConfigError("fine-tune losses are empty; give at least one, such as soft: 1.0")
        for name, weight in self.losses.items():
            number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
            if not number or not 0 < weight < math.inf:
                raise ConfigError(
                    f"weight of fine-tune loss '{name}' is {weight}; give a number above 0"
                )
        if str(self.lr) == "auto":
            object.__setattr__(self, "lr", None)
        for name, low, high in _FINETUNE_RANGES:
            value, auto = getattr(self, name), " or 'auto'" if name == "lr" else ""
            if auto and value is None:
                continue
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not low <= value <= high:
                raise ConfigError(
                    f"fine-tune {name} is {value}; it must be within {low} to {high}{auto}"
                )
        if self.randaugment and not _RANDAUGMENT.fullmatch(self.randaugment):
            raise ConfigError(
                f"randaugment '{self.randaugment}' is not understood; write it as timm does, such"
                " as rand-m9-mstd0.5-inc1 (parts: m, n, mmax, inc of whole numbers; p, mstd)"
            )

    @property
    def mixes(self) -> bool:
        """Whether a step's images are mixed with each other, and so are their labels."""
        return self.mixup > 0 or self.cutmix > 0

    @property
    def varies(self) -> bool:
        """Whether an image looks different each time it is trained on."""
        more = self.augment != "none" or self.randaugment or self.random_erasing
        return bool(more) or self.mixes

    def __hash__(self) -> int:
        return hash(json.dumps(self.to_dict(), sort_keys=True))

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles: a read-only mapping can do neither by itself."""
        return FineTuneSpec.from_dict, (self.to_dict(),)

    def to_dict(self) -> dict[str, Any]:
        """Plain data; what is at its default stays away."""
        plain = FineTuneSpec.__dataclass_fields__
        data = {name: getattr(self, name) for name in plain}
        data["losses"] = dict(self.losses)
        return {
            name: value
            for name, value in data.items()
            if name in ("length", "losses") or value != plain[name].default
        }

    @classmethod
    def from_dict(cls, data: object, *, where: Place | str = "finetune") -> FineTuneSpec:
        """The inverse of `to_dict`; unknown keys are refused with the nearest known one."""
        if isinstance(data, Mapping) and data.get("lr") == "auto":
            data = {**data, "lr": None}
        return typed(cls, data, where)
