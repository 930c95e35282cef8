"""A target file of a machine, made from measurements on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotok.errors import AutotokError, ConfigError
from autotok.evaluation.allocator import reuse_large_blocks
from autotok.profiling.calibrate import BACKBONES, Calibrated, OnStep, Plan
from autotok.profiling.calibrate import calibrate as calibrate_here
from autotok.profiling.target import load_target
from autotok.profiling.target_file import calibrated_target, save_target

__all__ = ["Calibration", "calibrate"]

MOST_MEASUREMENTS, MOST_MINUTES = 60, 5.0
LEAST_MINUTES = 0.5
STARTING_S = 12.0
"""Importing, loading and writing take so long outside the plan."""


@dataclass(frozen=True)
class Calibration:
    """What a calibration found, and where its target file lies."""

    path: Path
    found: Calibrated

    def to_dict(self) -> dict[str, Any]:
        """The figures, by name with their units."""
        found, checked, memory = self.found, self.found.check, self.found.memory
        return {
            "target_file": str(self.path),
            "measurements": len(found.fitted) + len(found.held_out),
            "held_out": checked.count,
            "within_5_pct": round(checked.within_5_pct, 1),
            "within_10_pct": round(checked.within_10_pct, 1),
            "rank_correlation": round(checked.rank_correlation, 4),
            "worst_pct": round(checked.worst_pct, 1),
            "memory_points": 0 if memory is None else memory.points,
            "memory_worst_pct": None if memory is None else round(memory.worst_pct, 1),
            "backbones": list(found.plan.backbones),
            "batch": found.plan.batch,
            "threads": found.threads,
            "clock": found.clock,
            "seconds": round(found.seconds, 1),
        }

    def sentences(self) -> list[str]:
        """The same for people, and how to use the file."""
        row = self.to_dict()
        fitted = len(self.found.fitted)
        memory = "not measured"
        if self.found.memory is not None:
            memory = f"errors up to {row['memory_worst_pct']} % at {row['memory_points']} points,"
            memory += " each predicted from the others"
        return [
            f"{fitted} configurations fitted, {row['held_out']} kept aside to judge the fit"
            f" ({row['seconds']:.0f} s, {row['threads']} threads, batch {row['batch']},"
            f" {row['clock']} time)",
            f"of those kept aside  {row['within_5_pct']} % within 5 %,"
            f" {row['within_10_pct']} % within 10 %, worst {row['worst_pct']} %,"
            f" rank correlation {row['rank_correlation']}",
            f"peak memory          {memory}",
            f"target file          {self.path}",
            f"use it               autotok search --target {self.path} --budget ...  or"
            f"  autotok profile --target {self.path}",
        ]


def calibrate(
    target: str = "local",
    *,
    output: Path | None = None,
    plan: Plan | None = None,
    on_step: OnStep = lambda share, text: None,
) -> Calibration:
    """Measure a machine, fit its latency and memory model, and write them as a target file.

    Args:
        target: 'local'; boards over ssh cannot be calibrated yet.
        output: The file; 'calibrated-local.yaml' by default. One that is no calibrated target is
            not overwritten.
        plan: What to measure; see `plan_of`.
        on_step: Told the share done and what comes.

    Raises:
        UsageError: an unknown machine or backbone, or a file that must not be overwritten.
    """
    plan = plan or plan_of()
    if target != "local":
        raise ConfigError(f"target '{target}' cannot be calibrated; give 'local'")
    path = output or Path("calibrated-local.yaml")
    _spare(path)
    reuse_large_blocks()
    found = calibrate_here(plan, on_step=on_step)
    save_target(calibrated_target(found, name=path.stem), path)
    return Calibration(path, found)


def plan_of(
    *,
    measurements: int = MOST_MEASUREMENTS,
    minutes: float = MOST_MINUTES,
    batch: int = 1,
    backbones: Sequence[str] = BACKBONES,
    seed: int = 0,
) -> Plan:
    """What to measure, of all that is done within `minutes`.

    Raises:
        ConfigError: more measurements or minutes than a calibration may take, or too few.
    """
    if measurements > MOST_MEASUREMENTS:
        raise ConfigError(
            f"measurements is {measurements}; a calibration takes at most {MOST_MEASUREMENTS}"
        )
    if not LEAST_MINUTES <= minutes <= MOST_MINUTES:
        raise ConfigError(f"minutes is {minutes:g}; give {LEAST_MINUTES:g} to {MOST_MINUTES:g}")
    seconds = 60 * minutes - STARTING_S
    return Plan(tuple(dict.fromkeys(backbones)), measurements, seconds, batch, seed)


def _spare(path: Path) -> None:
    """Refuse a path that holds something else than an earlier calibration."""
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"output '{path}' must end in .yaml")
    if not path.parent.is_dir():
        raise ConfigError(f"output '{path}': the folder '{path.parent}' does not exist; create it")
    if not path.exists():
        return
    try:
        earlier = load_target(str(path)).calibration is not None
    except AutotokError:
        earlier = False
    if not earlier:
        raise ConfigError(
            f"output '{path}' exists and is no calibrated target; give another name or remove it"
        )
