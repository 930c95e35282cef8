"""The front of a run over any metrics of its points, and the volume that it dominates."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autotok.errors import RunDirectoryError
from autotok.metrics import METRICS, Metric
from autotok.searching.records.pareto import front_mask, hypervolume

from .points import Point


@dataclass(frozen=True)
class FrontOver:
    """What nothing else dominates in some metrics."""

    metrics: tuple[Metric, ...]
    points: tuple[Point, ...]
    """By the first metric, best first."""
    volume: float
    """Dominated up to `reference`, in the product of the metrics' units."""
    reference: tuple[float, ...]
    with_trials: bool = False
    """Whether trials that were judged on few images count as well, and a quality is told."""

    @property
    def sentence(self) -> str:
        """The volume, up to where, and whether trials on few images count."""
        names = " and ".join(m.label for m in self.metrics)
        ends = ", ".join(m.text(v) for m, v in zip(self.metrics, self.reference, strict=True))
        more = ", trials on few images included" if self.with_trials else ""
        return f"hypervolume of the front over {names}{more}: {self.volume:.5g}, up to {ends}"


def axes_of(metrics: Sequence[Metric]) -> tuple[Metric, Metric]:
    """(x, y) of a picture: what is judged upwards, the first of the others across."""
    y = next((m for m in metrics if m.kind == "judged"), metrics[0])
    return next((m for m in metrics if m is not y), METRICS["macs"]), y


def own_axes(asked: Sequence[Metric]) -> tuple[Metric, ...]:
    """What a run's own front is over: the metrics of its objectives, and those of its picture."""
    return tuple(dict.fromkeys((*asked, *axes_of(asked))))


def front_over(
    points: Sequence[Point], metrics: Sequence[Metric], *, own: Collection[Metric] = ()
) -> FrontOver:
    """The front of the configurations that a run may recommend.

    Where all metrics are among the run's `own` axes, of what its final evaluation judged; elsewhere
    the trials count too, most of which were judged on few images.

    The volume counts from the (of several, the costliest) uncompressed model's figure in each
    metric, from 0 for a percentage
    that was judged, and from the worst seen where the uncompressed model is the best of all.

    Raises:
        RunDirectoryError: the run knows nothing of a metric.
    """
    final = {*metrics} <= {*own}
    kinds = ("best", "front") if final else ("best", "front", "trial")
    able = [p for p in points if p.kind in kinds and p.feasible and not p.over]
    for metric in metrics:
        if able and all(p.value(metric) is None for p in able):
            raise RunDirectoryError(
                f"the run knows no {metric.label} of its configurations; one that it is asked of by"
                f" --objective {metric.words[0] if metric.words else metric.name} has it"
            )
    able = [p for p in able if None not in [p.value(m) for m in metrics]]
    front = non_dominated(able, metrics)
    plain = max((p for p in points if p.is_whole), key=lambda p: p.macs_g, default=None)
    worst = losses_of(able, metrics).max(axis=0) if able else np.zeros(len(metrics))
    ends = np.array([_end(m, plain, float(w)) for m, w in zip(metrics, worst, strict=True)])
    volume = hypervolume(losses_of(front, metrics), ends) if front else 0.0
    order = sorted(front, key=lambda p: tuple(losses_of([p], metrics)[0]))
    reference = tuple(float(e) + 0.0 for e in ends * _signs(metrics))  # no -0
    few = any(m.kind == "judged" for m in metrics) and any(p.kind == "trial" for p in able)
    return FrontOver(tuple(metrics), tuple(order), volume, reference, few)


def volumes_by_trial(points: Sequence[Point], metrics: Sequence[Metric]) -> list[float]:
    """The front's volume after each configuration that a run may recommend, in the order of their
    trials, up to the reference of the whole and by the figures that were known in the end."""
    whole = front_over(points, metrics)
    ends = np.array(whole.reference) * _signs(metrics)
    able = [p for p in points if p.kind in ("best", "front", "trial") and p.feasible and not p.over]
    able = [p for p in able if None not in [p.value(m) for m in metrics] and p.number is not None]
    able.sort(key=lambda p: p.number or 0)
    fronts = (non_dominated(able[: n + 1], metrics) for n in range(len(able)))
    return [hypervolume(losses_of(front, metrics), ends) for front in fronts]


def non_dominated(points: Sequence[Point], metrics: Sequence[Metric]) -> list[Point]:
    """Those that no other dominates; all must have a value of each metric."""
    mask = front_mask(losses_of(points, metrics))
    return [p for p, keep in zip(points, mask, strict=True) if keep]


def _end(metric: Metric, plain: Point | None, worst: float) -> float:
    if metric.kind == "judged" and metric.higher_is_better:
        return 0.0
    value = None if plain is None else plain.value(metric)
    if value is None or metric.kind == "judged":
        return worst
    return -value if metric.higher_is_better else value


def _signs(metrics: Sequence[Metric]) -> NDArray[np.float64]:
    return np.array([-1.0 if m.higher_is_better else 1.0 for m in metrics])


def losses_of(points: Sequence[Point], metrics: Sequence[Metric]) -> NDArray[np.float64]:
    """(n, m) columns to minimise."""
    values = np.array([[p.value(m) for m in metrics] for p in points], dtype=np.float64)
    return values.reshape(-1, len(metrics)) * _signs(metrics)
