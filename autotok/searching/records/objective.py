"""What to optimise: a name, a unit and a direction; order is the order given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autotok.errors import ConfigError
from autotok.metrics import METRICS, Metric, metric_of

DEFAULT_OBJECTIVES = ("quality", "macs_g")
MOST = 4
"""Objectives at a time: beyond it nearly every configuration is on the front."""


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


def asked_metrics(names: Sequence[str], metric: str | None = None) -> tuple[Metric, ...]:
    """The rows of the table that objectives name, in their order.

    'quality' is the `metric` of the evaluation, and left out where that is not known yet.

    Raises:
        ConfigError: none, too many or the same twice, or a quality that is not what is judged.
        UnknownName: no such metric.
    """
    own = None if metric is None else METRICS[metric]
    found = tuple(
        own if name == "quality" else metric_of(name, kind="objective", beside=["quality"])
        for name in names
    )
    judged = [m.name for m in found if m is not None and m.kind == "judged"]
    judged += ["quality"] * (found.count(None))
    if not 0 < len(found) <= MOST or len(set(found)) != len(found):
        raise ConfigError(f"objectives {list(names)} must be one to {MOST} different names")
    if len(judged) > 1:
        raise ConfigError(
            f"objectives {list(names)} hold {' and '.join(judged)}, and a search judges one"
            " quality; leave the others out"
        )
    if own is not None and judged and judged[0] != own.name:
        raise ConfigError(
            f"objective '{judged[0]}' is not what this search judges; give --quality {judged[0]}"
            " (it judges"
            f" {own.name}), or the objective 'quality'"
        )
    return tuple(m for m in found if m is not None)


def judged_by(names: Sequence[str], quality: str) -> str:
    """What is to be judged: the quality asked for, or where that is open, the one that an objective
    names."""
    judged = [m.name for m in asked_metrics(names) if m.kind == "judged"]
    return judged[0] if judged and quality == "auto" else quality


def make_objectives(names: Sequence[str], metric: str) -> tuple[Objective, ...]:
    """Objectives by name; 'quality' becomes the metric of the evaluation ('top1_pct', 'kl' ...)."""
    return tuple(
        Objective(m.column, m.unit, m.higher_is_better) for m in asked_metrics(names, metric)
    )


def losses(
    rows: Iterable[Mapping[str, float]], objectives: Sequence[Objective]
) -> NDArray[np.float64]:
    """(n, m) columns to minimise, in the order of the objectives."""
    signs = [-1.0 if o.maximise else 1.0 for o in objectives]
    data = [[s * row[o.name] for s, o in zip(signs, objectives, strict=True)] for row in rows]
    return np.asarray(data, dtype=np.float64).reshape(-1, len(objectives))
