"""What can be said of runs while they go on and afterwards: status and comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from autotok.errors import ConfigError
from autotok.metrics import METRICS, QUALITIES, metric_of
from autotok.searching.records.pareto import hypervolume
from autotok.searching.records.record import TrialRecord

from .fronts import FrontOver, axes_of, losses_of, own_axes
from .run import Run

_JUDGED = tuple(metric.column for name, metric in METRICS.items() if name in QUALITIES)


def status_report(run: Run) -> dict[str, Any]:
    """How far a run is, the best so far, and how to go on."""
    asked_for = run.settings.n_trials
    begun = (run.directory / "trials.csv").is_file()
    trials = run.trials if begun else pd.DataFrame({"state": []})
    done = trials[trials["state"] == "complete"] if "state" in trials else trials
    report: dict[str, Any] = {
        "run": str(run.directory),
        "state": run.state,
        "evaluated": len(done),
        "asked_for": asked_for,
        "best": _best_so_far(run, done),
    }
    if run.state != "running":
        more = f" --trials {2 * asked_for}" if run.state == "finished" else ""
        report["go_on"] = run.go_on(more)
    return report


def _best_so_far(run: Run, trials: pd.DataFrame) -> dict[str, Any] | None:
    """The recommended one of a finished run, else the best feasible trial."""
    if run.state == "finished":
        best = run.records()["best"]
        return None if best is None else _row(best)
    column = next((c for c in _JUDGED if c in trials), None)
    if column is None or not len(trials):
        return None
    if "feasible" in trials:
        trials = trials[trials["feasible"].astype(str) == "True"]
    ranked = trials.sort_values(column, ascending=not metric_of(column).higher_is_better).dropna(
        subset=[column]
    )
    if ranked.empty:
        return None
    unusual = ("number_format", "image_size", "exits")
    keys = ("number", "method", *unusual, column, "num_images", "macs_g")
    first = ranked.iloc[0][[key for key in keys if key in ranked]].dropna()
    return {str(key): value for key, value in first.items()}


def _row(record: TrialRecord) -> dict[str, Any]:
    row = {**record.row(), **({"details": record.details} if record.details else {})}
    keys = ("number", "method", "details", *_JUDGED, "macs_g")
    return {key: row[key] for key in keys if row.get(key) is not None}


def compare_runs(
    first: Run, second: Run, *, x: str | None = None, y: str | None = None
) -> dict[str, Any]:
    """Two finished runs: fronts, hypervolumes up to one reference point, settings that differ.

    Fronts are those of `Run.front_over(x, y)`; with neither, what the final evaluations found, over
    two metrics that both runs were asked for.

    Raises:
        ConfigError: they have no such metrics in common, or were judged by different qualities.
        RunDirectoryError: a run knows nothing of a metric.
    """
    runs = (first, second)
    found = _shared(runs) if x is None and y is None else _named(runs, x or "macs", y or "quality")
    metrics = found[0].metrics
    volumes = _volumes([losses_of(front.points, metrics) for front in found])
    return {
        "metrics": [metric.column for metric in metrics],
        "trials_included": any(front.with_trials for front in found),
        "runs": [
            {"run": str(run.directory), "hypervolume": volume, "front": _rows(front)}
            for run, front, volume in zip(runs, found, volumes, strict=True)
        ],
        "differ": _differing(first.config, second.config),
    }


def _shared(runs: Sequence[Run]) -> list[FrontOver]:
    """The fronts of the final evaluations over the metrics that all were asked for."""
    asked = [own_axes(run.asked) if len(run.asked) < 2 else run.asked for run in runs]
    common = [m for m in asked[0] if all(m in own for own in asked)]
    if len(common) < 2:
        told = [f"'{r.directory}' {', '.join(m.name for m in r.asked)}" for r in runs]
        judged = any(m.kind == "judged" for m in common)
        raise ConfigError(
            f"the runs were not asked for two metrics in common ({'; '.join(told)}); name two that"
            f" both know, such as --x macs --y {'quality' if judged else 'params'}"
        )
    names = [m.name for m in axes_of(common)]
    return [run.front_over(*names, final=True) for run in runs]


def _named(runs: Sequence[Run], x: str, y: str) -> list[FrontOver]:
    """The fronts over two metrics by name: of the final evaluations, where these are axes of both
    runs' own."""
    judged = [run.judged.name for run in runs]
    if len(set(judged)) > 1 and "quality" in (x, y):
        raise ConfigError(
            f"runs '{runs[0].directory}' and '{runs[1].directory}' were judged by"
            f" {' and '.join(judged)}; give --x and --y of other metrics"
        )
    final = all(run.owns(x, y) for run in runs)
    return [run.front_over(x, y, final=final) for run in runs]


def _rows(front: FrontOver) -> list[dict[str, Any]]:
    return [
        {"number": p.number, "method": p.called, **{m.column: p.value(m) for m in front.metrics}}
        for p in front.points
    ]


def _volumes(points: Sequence[NDArray[np.float64]]) -> list[float]:
    """Hypervolumes up to the worst of either run, and a tenth of the spread further."""
    everything = np.concatenate(points)
    if not len(everything):
        return [0.0] * len(points)
    spread = np.ptp(everything, axis=0)
    reference = everything.max(axis=0) + 0.1 * np.where(spread > 0, spread, 1.0)
    return [float(f"{hypervolume(p, reference):.4g}") for p in points]


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, list[Any]]:
    """{section.setting: [in the first, in the second]} where they are not the same."""
    found: dict[str, list[Any]] = {}
    for key in dict.fromkeys([*a, *b]):
        one, other = a.get(key), b.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found |= {f"{key}.{inner}": pair for inner, pair in _differing(one, other).items()}
        elif one != other and key != "run_id":
            found[str(key)] = [one, other]
    return found
