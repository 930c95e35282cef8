"""Target files written from a calibration; `load_target` reads them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
import yaml

from autotok.devices.measurement import now
from autotok.files import write_text

from .calibrate import CalibrationFound, CalibrationPlan
from .calibration_run import Measured
from .fitting import NAMES
from .measurers import Machine
from .target import Target, load_target
from .target_parts import CalibrationRecord, Number, PublishedPoint, Setting, Terms


def calibrated_target(found: CalibrationFound, *, name: str, base: Target | None = None) -> Target:
    """A target of the machine measured, with the terms found, and the held-out ones as its points.

    `base` gives what calibration does not measure (peaks, bandwidth); 'local' by default.
    """
    named, base = base is not None, base or load_target("local")
    machine = found.machine
    when = now()
    count = found.figures()["measurements"]
    source = f"fitted: autotok calibrate, {count} configurations on {machine.name}, {when[:10]}"
    how = f"{machine.threads} threads"
    if not machine.runtime.startswith("torch "):
        how = f"{machine.runtime}, {how}"
    return dataclasses.replace(
        base,
        name=name,
        title=f"{machine.name}, {how}",
        memory_mb=_memory(base, machine),
        settings={"eager": _setting(base.setting(), found, source)},
        default_dtype=machine.dtype,
        default_batch=found.plan.batch,
        checked_against=tuple(_point(row, found, when) for row in found.held_out),
        notes=(
            f"Fitted on {', '.join(found.plan.backbones)}, batch {found.plan.batch}, {how}; other"
            " sizes of batch and numbers of threads were not measured.",
            "Points were kept aside when the stated errors were found; the terms were then fitted"
            " to all configurations, these included.",
            *_limit_of(found.plan),
            *(_notes_of(base) if named else ()),
        ),
        calibration=_record(found, when),
    )


def _record(found: CalibrationFound, when: str) -> CalibrationRecord:
    from autotok import __version__

    return CalibrationRecord(
        when=when,
        machine=found.machine.account,
        torch=str(torch.__version__),
        autotok=__version__,
        dtype=found.machine.dtype,
        **found.figures(),
    )


def _limit_of(plan: CalibrationPlan) -> tuple[str, ...]:
    """What was not drawn for its size."""
    if plan.most_added is None:
        return ()
    return (f"Configurations that add more than {plan.most_added} kernels were not measured.",)


def _notes_of(base: Target) -> tuple[str, ...]:
    """What the target says from which the numbers come that were not measured."""
    unmeasured = f"Peaks and bandwidth are those of target '{base.name}' ({base.title})"
    return (f"{unmeasured}.", *(f"Of that target: {note}" for note in base.notes))


def _setting(base: Setting, found: CalibrationFound, source: str) -> Setting:
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
        fused_attention=found.plan.fused_attention,
        fusion="none",
        fixed_ms=Number(fixed / 1e3, source),
        dispatch_us=Number(0.0, "fitted: every operator's call is among the terms"),
        terms=Terms(source, times),
    )


def _memory(base: Target, machine: Machine) -> Number:
    """What the machine says is installed; a graphics card's own memory it does not know."""
    if machine.memory_mb is None or (base.kind == "gpu" and not base.shared_memory):
        return base.memory_mb
    return Number(round(machine.memory_mb), machine.memory_source)


def _point(row: Measured, found: CalibrationFound, when: str) -> PublishedPoint:
    config = row.candidate.config
    return PublishedPoint(
        source=f"autotok calibrate, {when[:10]}",
        backbone=row.candidate.backbone,
        method=config.method,
        metric="latency_ms",
        value=round(row.latency_ms, 3),
        role="held out",
        batch=found.plan.batch,
        dtype=found.machine.dtype,
        layers=tuple(r.layer for r in config.reductions),
        num_keep=tuple(r.num_keep or 0 for r in config.reductions),
    )


def save_target(target: Target, path: Path) -> None:
    """Write a target as YAML, atomically."""
    text = yaml.safe_dump(target_dict(target), sort_keys=False, width=100, allow_unicode=True)
    write_text(path, text)


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
        return {key: _plain(v) for key, (v, default) in rows.items() if v != default and v != {}}
    if hasattr(value, "items"):
        return {str(key): _plain(v) for key, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    return value
