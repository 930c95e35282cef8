"""What to optimise: a name, a unit and a direction; order is the order given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autotok.errors import ConfigError, UnknownName

__all__ = ["DEFAULT_OBJECTIVES", "Objective", "losses", "make_objectives"]

DEFAULT_OBJECTIVES = ("quality", "macs_g")
_UNITS = {
    "macs_g": "G multiply-accumulates",
    "params_m": "M parameters",
    "latency_ms": "ms",
    "peak_memory_mb": "MB",
}
_LOWER_IS_BETTER = frozenset({"kl"})


@dataclass(frozen=True)
class Objective:
    """One thing to optimise; `name` is the column it is read from."""

    name: str
    unit: str
    maximise: bool

    @property
    def label(self) -> str:
        """Name and unit, as dashboards show it."""
        return f"{self.name} [{self.unit}]" if self.unit else self.name


def make_objectives(names: Sequence[str], metric: str) -> tuple[Objective, ...]:
    """Objectives by name; 'quality' becomes the metric of the evaluation ('top1_pct', 'kl' ...)."""
    if len(set(names)) != len(names) or not names:
        raise ConfigError(f"objectives {list(names)} must be one or more different names")
    return tuple(_one(name, metric) for name in names)


def _one(name: str, metric: str) -> Objective:
    if name == "quality":
        unit = "%" if metric in ("top1", "agreement") else ""
        column = f"{metric}_pct" if unit else metric
        return Objective(column, unit, metric not in _LOWER_IS_BETTER)
    if name not in _UNITS:
        raise UnknownName("objective", name, ["quality", *_UNITS])
    return Objective(name, _UNITS[name], False)


def losses(
    rows: Iterable[Mapping[str, float]], objectives: Sequence[Objective]
) -> NDArray[np.float64]:
    """(n, m) columns to minimise, in the order of the objectives."""
    signs = [-1.0 if o.maximise else 1.0 for o in objectives]
    data = [[s * row[o.name] for s, o in zip(signs, objectives, strict=True)] for row in rows]
    return np.asarray(data, dtype=np.float64).reshape(-1, len(objectives))
