"""A target file of a machine, made from measurements on it."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotok.backbones.loading import check_name
from autotok.devices.device import Device, leaving, open_device
from autotok.devices.measurement import Measurement
from autotok.devices.placing import torch_device
from autotok.devices.ssh_address import SshAddress
from autotok.errors import AutotokError, ConfigError
from autotok.evaluation.allocator import reuse_large_blocks
from autotok.export.formats import FORMATS
from autotok.methods.registry import get_method, list_methods
from autotok.names import known

from .calibrate import BACKBONES, CalibrationFound, CalibrationPlan
from .calibrate import calibrate_target as calibrate_with
from .calibration_run import OnStep
from .measurers import DeviceMeasurer, InterleavedMeasurer, Machine, this_machine
from .target import Target, load_target
from .target_file import calibrated_target, save_target

MOST_MEASUREMENTS = 60
LEAST_MINUTES = 0.5
MOST_MINUTES, USUAL_MINUTES = {"local": 5.0, "device": 60.0}, {"local": 5.0, "device": 15.0}
"""A device takes longer: every model is sent to it, to a board exported."""
STARTING_S = 12.0
"""Importing, loading and writing take so long outside the plan."""
MOST_ADDED = 700
"""Kernels beyond the backbone's that are still exported in a minute or so."""
HERE = "local?runtime="
SPELT_OUT = ("onnxruntime",)
"""Runtimes that compute plain attention in several kernels, as the exported file has it."""


@dataclass(frozen=True)
class Calibration:
    """What a calibration found, and where its target file lies."""

    path: Path
    found: CalibrationFound

    def to_dict(self) -> dict[str, Any]:
        """The figures, by name with their units."""
        found, figures = self.found, self.found.figures()
        name, seconds = found.machine.name, round(found.seconds, 1)
        return {"target_file": str(self.path), **figures, "machine": name, "seconds": seconds}

    def sentences(self) -> list[str]:
        """The same for people, and how to use the file."""
        row, plan = self.to_dict(), self.found.plan
        fitted, memory = len(self.found.fitted), "not measured"
        short = (
            ""
            if row["measurements"] >= plan.measurements
            else (f"; time was too short for the {plan.measurements} asked for")
        )
        ranks = row["rank_correlation"]
        if self.found.memory is not None:
            memory = f"errors up to {row['memory_worst_pct']} % at {row['memory_points']} points,"
            memory += " each predicted from the others"
        return [
            f"measured on          {row['machine']}, {row['runtime']}",
            f"{fitted} configurations fitted, {row['held_out']} kept aside to judge the fit"
            f" ({row['seconds']:.0f} s, {row['threads']} threads, batch {row['batch']},"
            f" {row['clock']} time){short}",
            f"of those kept aside  {row['within_5_pct']} % within 5 %,"
            f" {row['within_10_pct']} % within 10 %, worst {row['worst_pct']} %,"
            f" rank correlation {'of too few' if ranks is None else ranks}",
            f"peak memory          {memory}",
            f"target file          {self.path}",
            f"use it               autotok search --target {self.path} --budget ...  or"
            f"  autotok profile --target {self.path}",
        ]


def calibrate(
    target: str = "local",
    *,
    output: str | Path | None = None,
    base: str = "local",
    plan: CalibrationPlan | None = None,
    run_on: str = "cpu",
    on_step: OnStep = lambda share, text: None,
) -> Calibration:
    """Measure a machine, fit its latency and memory model, and write them as a target file.

    Args:
        target: 'local', 'local?runtime=onnxruntime' or openvino, 'ssh://user@host[:port]' (with
            ?runtime=NAME as needed) or 'ray:RESOURCE'.
        output: The file; 'calibrated-local.yaml' or of the board's name by default. One that is no
            calibrated target is not overwritten.
        base: The target that gives what is not measured: kind, peaks, bandwidth, notes.
        plan: What to measure; see `plan_of`.
        run_on: Of target 'local', what is measured: 'cpu', 'cuda[:N]', or 'auto', a GPU if there
            is one.
        on_step: Told the share done and what comes.

    Raises:
        UsageError: an unknown machine or backbone, or a file that must not be overwritten.
        DeviceUnreachable: the device does not answer; nothing is written.
        AutotokError: too few configurations could be measured on the device.
    """
    device, here = _device_of(target), torch_device(run_on)
    plan = plan or plan_of(target=target)
    path = Path(output or f"calibrated-{_short(target)}.yaml")
    _spare(path)
    lender = _lender(base, target)
    reuse_large_blocks()
    if device is None:
        found = calibrate_with(plan, measurer=InterleavedMeasurer(here), on_step=on_step)
    else:
        on_step(0.0, f"asking {device.name}")
        with leaving(device), _without_comparisons():
            found = _on_device(device, target, plan, on_step)
    own = None if base == "local" else lender
    save_target(calibrated_target(found, name=path.stem, base=own), path)
    return Calibration(path, found)


def plan_of(
    *,
    target: str = "local",
    measurements: int = MOST_MEASUREMENTS,
    minutes: float | None = None,
    batch: int = 1,
    backbones: Sequence[str] | None = None,
    seed: int = 0,
) -> CalibrationPlan:
    """What to measure, of all that is done within `minutes`: by default 5, of a device 15.

    Raises:
        ConfigError: more measurements or minutes than a calibration may take, or too few.
        UnknownName, UnsupportedBackbone: a backbone that no family knows or runs.
    """
    if measurements > MOST_MEASUREMENTS:
        raise ConfigError(
            f"measurements is {measurements}; a calibration takes at most {MOST_MEASUREMENTS}"
        )
    kind = "local" if target == "local" else "device"
    minutes = USUAL_MINUTES[kind] if minutes is None else minutes
    if not LEAST_MINUTES <= minutes <= MOST_MINUTES[kind]:
        what = "this machine" if kind == "local" else "a device"
        raise ConfigError(
            f"minutes is {minutes:g}; give {LEAST_MINUTES:g} to {MOST_MINUTES[kind]:g} for {what}"
        )
    seconds = 60 * minutes - STARTING_S
    names = tuple(dict.fromkeys(backbones or BACKBONES))
    for name in backbones or ():  # what is there by default is known, and to ask takes seconds
        check_name(name)
    return CalibrationPlan(names, measurements, seconds, batch, seed)


def _device_of(target: str) -> Device | None:
    """The device to measure on; None is this machine."""
    if target == "local":
        return None
    if target.startswith(("ssh:", "ray:")):
        return open_device(target)
    if target.startswith(HERE):
        runtime = target.removeprefix(HERE)
        format = next(
            f for f in FORMATS if f.runtime == known("runtime", runtime, _exporting_runtimes())
        )
        format.check()
        return open_device(target)
    raise ConfigError(
        f"target '{target}' cannot be calibrated; give 'local', ssh://user@host[:port] or"
        " ray:RESOURCE, and a known target to start from with --base"
    )


def _lender(base: str, target: str) -> Target:
    """The target whose numbers are taken where none are measured."""
    lender = load_target(base)
    dtype = _dtype_of(target)
    if dtype not in lender.peak_gmacs:
        raise ConfigError(
            f"base '{base}' has no peak for {dtype}, which '{target}' is measured in; give another"
            " --base, see `autotok targets`"
        )
    return lender


def _on_device(
    device: Device, target: str, plan: CalibrationPlan, on_step: OnStep
) -> CalibrationFound:
    """What was found on a device.

    Raises:
        DeviceUnreachable: it does not answer.
    """
    here = target.startswith(HERE)
    account = this_machine().account if here else device.check()
    if target.startswith("ssh:") or here:
        plan = _exported(plan, device, target)

    def machine(first: Measurement) -> Machine:
        name = first.device.removeprefix(f"{device.name} (").removesuffix(")")
        return Machine(
            name=name,
            account=name if target.startswith("ray:") else account,  # without addresses
            runtime=first.runtime,
            threads=first.threads,
            clock="wall",
            dtype=first.dtype,
            memory_mb=device.memory_mb(),
            memory_source="measured: what the device's operating system reports",
        )

    return calibrate_with(plan, measurer=DeviceMeasurer(device.measure, machine), on_step=on_step)


def _exported(plan: CalibrationPlan, device: Device, target: str) -> CalibrationPlan:
    """The plan without what cannot be exported, for the runtime that the board is measured in."""
    return dataclasses.replace(
        plan,
        without=tuple(name for name in list_methods() if not get_method(name).exportable),
        dtype=_dtype_of(target),
        fused_attention=device.settle() not in SPELT_OUT,
        most_added=MOST_ADDED,
    )


def _dtype_of(target: str) -> str:
    return SshAddress.parse(target).dtype if target.startswith("ssh:") else "float32"


def _exporting_runtimes() -> list[str]:
    """Of this machine, those that run exported files."""
    return sorted(f.runtime for f in FORMATS if f.runtime is not None)


def _short(target: str) -> str:
    """A word for a file name."""
    if target.startswith(HERE):
        return f"local-{target.removeprefix(HERE)}"
    if target.startswith("ssh:"):
        return re.sub(r"[^A-Za-z0-9_.-]", "-", SshAddress.parse(target).host)
    return target.removeprefix("ray:").split("@")[0]


@contextlib.contextmanager
def _without_comparisons() -> Iterator[None]:
    """Exported files of random weights differ from torch in which tokens go; only sizes matter."""
    logger = logging.getLogger("autotok.export")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


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
