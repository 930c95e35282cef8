"""What can be said of runs while they go on and afterwards: status, comparison, picture."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from autotok.errors import ConfigError, printable
from autotok.metrics import METRICS, QUALITIES, metric_of
from autotok.searching.records.objective import asked_metrics
from autotok.searching.records.pareto import hypervolume
from autotok.searching.records.record import TrialRecord

from .fronts import axes_of
from .handover import limits_of, points_of
from .plots import pareto_png
from .run import Run

__all__ = ["compare_runs", "draw_again", "status_report"]

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
        report["go_on"] = f"autotok resume {shlex.quote(str(run.directory))}{more}"
    return report


def _best_so_far(run: Run, trials: pd.DataFrame) -> dict[str, Any] | None:
    """The recommended one of a finished run, else the best feasible trial."""
    if run.state == "finished":
        best = run.records()["best"]
        return None if best is None else _row(best)
    column = _quality_column(trials)
    if column is None or not len(trials):
        return None
    if "feasible" in trials:
        trials = trials[trials["feasible"].astype(str) == "True"]
    ranked = trials.sort_values(column, ascending=not metric_of(column).higher_is_better).dropna(
        subset=[column]
    )
    keys = [key for key in ("number", "method", column, "macs_g") if key in ranked]
    return None if ranked.empty else ranked.iloc[0][keys].to_dict()


def _quality_column(trials: pd.DataFrame) -> str | None:
    return next((c for c in _JUDGED if c in trials), None)


def _row(record: TrialRecord) -> dict[str, Any]:
    row = record.row()
    keys = ("number", "method", *_JUDGED, "macs_g")
    return {key: row[key] for key in keys if row.get(key) is not None}


def compare_runs(first: Run, second: Run) -> dict[str, Any]:
    """Two finished runs: fronts, hypervolumes up to one reference point, settings that differ.

    Raises:
        ConfigError: they were judged by different metrics.
    """
    fronts = [[_row(record) for record in run.records()["front"]] for run in (first, second)]
    metrics = {key for front in fronts for row in front for key in row} & set(_JUDGED)
    if len(metrics) > 1:
        raise ConfigError(
            f"runs '{first.directory}' and '{second.directory}' were judged by"
            f" {' and '.join(sorted(metrics))}; compare runs of one metric"
        )
    volumes = _volumes(fronts, next(iter(metrics), "top1_pct"))
    runs = zip((first, second), fronts, volumes, strict=True)
    return {
        "runs": [
            {"run": str(run.directory), "hypervolume": volume, "front": front}
            for run, front, volume in runs
        ],
        "differ": _differing(first.config, second.config),
    }


def _volumes(fronts: list[list[dict[str, Any]]], metric: str) -> list[float]:
    """Hypervolumes of quality and cost, up to the worst of both in either run."""
    sign = -1.0 if metric_of(metric).higher_is_better else 1.0
    points = [
        np.array([[sign * row[metric], row["macs_g"]] for row in front if metric in row])
        for front in fronts
    ]
    points = [p.reshape(-1, 2) for p in points]
    everything = np.concatenate(points)
    if not len(everything):
        return [0.0, 0.0]
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


def draw_again(run: Run) -> Path:
    """pareto.png of a finished run, written again from its records."""
    found, question = run.records(), run.question
    scored = [r.score for r in [*found["front"], found["reference"]] if r is not None and r.score]
    metric = METRICS[scored[0].metric if scored else "top1"]
    points = points_of(found)
    shown = {record.number for record in [*found["front"], *found["controls"]]}
    points += [point for point in run.trial_points(metric) if point.number not in shown]
    x, y = axes_of(asked_metrics(run.settings.objectives, metric.name))
    budgets = ", ".join(question.budgets)
    return pareto_png(
        run.directory / "pareto.png",
        points,
        y,
        x=x,
        limits=limits_of(found["budgets"]),
        title=printable(f"{question.backbone} on {question.data}, budget {budgets}"),
    )
