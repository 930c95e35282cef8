"""Target files written from a calibration; `load_target` reads them."""

from __future__ import annotations

import dataclasses
import datetime
import os
import platform
from pathlib import Path
from typing import Any

import torch
import yaml

from autotok.files import write_text

from .calibrate import Calibrated, Measured
from .fitting import NAMES
from .measure import device_name
from .target import Number, Target, load_target
from .target_parts import Calibration, Point, Setting, Terms

__all__ = ["calibrated_target", "save_target", "target_dict"]

MB = 1e6


def calibrated_target(found: Calibrated, *, name: str, base: Target | None = None) -> Target:
    """A target of this machine with the terms found, and the held-out ones as its points.

    `base` gives what calibration does not measure (peaks, bandwidth); 'local' by default.
    """
    from autotok import __version__

    base = base or load_target("local")
    machine = device_name(torch.device("cpu"))
    when = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    count = len(found.fitted) + len(found.held_out)
    source = f"fitted: autotok calibrate, {count} configurations on {machine}, {when[:10]}"
    record = Calibration(
        when=when,
        machine=f"{machine}, {os.cpu_count()} CPUs, {platform.system()} {platform.machine()}",
        torch=str(torch.__version__),
        autotok=__version__,
        threads=found.threads,
        clock=found.clock,
        dtype="float32",
        batch=found.plan.batch,
        backbones=found.plan.backbones,
        measurements=count,
        held_out=found.check.count,
        within_5_pct=round(found.check.within_5_pct, 1),
        within_10_pct=round(found.check.within_10_pct, 1),
        rank_correlation=round(found.check.rank_correlation, 4),
        worst_pct=round(found.check.worst_pct, 1),
        memory_points=0 if found.memory is None else found.memory.points,
        memory_worst_pct=None if found.memory is None else round(found.memory.worst_pct, 1),
    )
    return dataclasses.replace(
        base,
        name=name,
        title=f"{machine}, {found.threads} threads",
        memory_mb=_memory(base.memory_mb),
        settings={"eager": _setting(base.setting(), found, source)},
        default_dtype="float32",
        default_batch=found.plan.batch,
        checked_against=tuple(_point(row, found.plan.batch, when) for row in found.held_out),
        notes=(
            f"Fitted on {', '.join(found.plan.backbones)}, batch {found.plan.batch},"
            f" {found.threads} threads; other sizes of batch and numbers of threads were not"
            " measured.",
            "Points were kept aside when the stated errors were found; the terms were then fitted"
            " to all configurations, these included.",
        ),
        calibration=record,
    )


def _setting(base: Setting, found: Calibrated, source: str) -> Setting:
    times = {
        name: float(f"{value:.4g}")
        for name, value in zip(NAMES, found.terms_us, strict=True)
        if value > 0
    }
    fixed = times.pop(NAMES[0], 0.0)
    if found.memory is not None:
        base = dataclasses.replace(
            base,
            runtime_base_mb=Number(round(found.memory.base_mb, 1), source),
            activation_overhead=Number(round(found.memory.overhead, 3), source),
        )
    return dataclasses.replace(
        base,
        asynchronous=False,
        fixed_ms=Number(fixed / 1e3, source),
        dispatch_us=Number(0.0, "fitted: every operator's call is among the terms"),
        terms=Terms(source, times),
    )


def _memory(known: Number) -> Number:
    try:
        installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / MB
    except (AttributeError, ValueError, OSError):
        return known
    return Number(round(installed), "measured: what the operating system reports")


def _point(row: Measured, batch: int, when: str) -> Point:
    config = row.candidate.config
    return Point(
        source=f"autotok calibrate, {when[:10]}",
        backbone=row.candidate.backbone,
        method=config.method,
        metric="latency_ms",
        value=round(row.latency_ms, 3),
        role="held out",
        batch=batch,
        layers=tuple(r.layer for r in config.reductions),
        num_keep=tuple(r.num_keep or 0 for r in config.reductions),
    )


def save_target(target: Target, path: Path) -> None:
    """Write a target as YAML, atomically."""
    text = yaml.safe_dump(target_dict(target), sort_keys=False, width=100, allow_unicode=True)
    write_text(path, text)
    load_target.cache_clear()


def target_dict(target: Target) -> dict[str, Any]:
    """Plain data that `load_target` takes back; what is at its default stays away."""
    data: dict[str, Any] = {}
    for item in dataclasses.fields(target):
        value = getattr(target, item.name)
        if value not in (None, ()):
            data[item.name] = _plain(value)
    return data


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        rows = {f.name: (getattr(value, f.name), f.default) for f in dataclasses.fields(value)}
        return {key: _plain(v) for key, (v, default) in rows.items() if v != default}
    if hasattr(value, "items"):
        return {str(key): _plain(v) for key, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    return value
