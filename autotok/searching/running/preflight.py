"""What is checked before anything heavy is loaded, and before the first trial is paid for."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from autotok.devices.ssh_address import SshAddress
from autotok.errors import ConfigError, RunDirectoryError
from autotok.export.formats import check_format
from autotok.metrics import METRICS, ON_DEVICE, QUALITIES, Metric
from autotok.names import ENGINES, SUBNETS, known
from autotok.plain_data import read_yaml
from autotok.searching.records.objective import DEFAULT_OBJECTIVES, asked_metrics
from autotok.searching.space.budget import parse_budgets
from autotok.searching.space.space_names import find_space

__all__ = [
    "Asked",
    "check_hand_over",
    "check_names",
    "device_needed",
    "require_device",
]

LEAST_MB = 100
"""Free disk a hand-over may need: weights, an ONNX file, pictures."""


@dataclass(frozen=True)
class Asked:
    """The names in the question of a search, as they were given."""

    budgets: Sequence[str]
    flops_convention: str = "macs"
    target: str | None = None
    quality: str = "auto"
    subnet: str = "fixed"
    engine: str = "local"
    device: str | None = None
    space: str = "default"
    methods: Sequence[str] = ()
    objectives: Sequence[str] = DEFAULT_OBJECTIVES


def check_names(asked: Asked) -> None:
    """Raise `UsageError` for a name that cannot be; torch is not imported for it."""
    known("engine", asked.engine, ENGINES)
    known("quality", asked.quality, QUALITIES)
    known("subnet", asked.subnet, SUBNETS)
    device = asked.device or "none"
    if device.startswith("ssh:"):
        SshAddress.parse(device)
    elif device.partition("?")[0] not in ("local", "none") and not device.startswith("ray:"):
        known("device", device, ("local", "ssh://user@host", "ray:RESOURCE"))
    read_yaml(find_space(asked.space), like="a search space")
    if asked.methods:
        from autotok.methods.registry import list_methods

        for name in asked.methods:
            known("method", name, ["plug-in", *list_methods()])
    requests = parse_budgets(asked.budgets, convention=asked.flops_convention)
    if asked.target is not None:
        from autotok.predicting.target import load_target

        load_target(asked.target)
    wanted = [m.name for m in asked_metrics(asked.objectives)]
    require_device([r.metric for r in requests] + wanted, asked.target, device)


def require_device(names: Iterable[str], target: str | None, device: str = "any") -> None:
    """Raise `ConfigError` where metrics of budgets and objectives cannot be known."""
    for metric in (METRICS[name] for name in names if name in ON_DEVICE):
        if target is None or (metric.kind == "measured" and device == "none"):
            raise device_needed(metric)


def device_needed(metric: Metric) -> ConfigError:
    """What to say of a metric that cannot be known."""
    if metric.kind == "measured":
        how = (
            "is known where a device counts it: give a --measure-on with a counter beside --target"
        )
    else:
        how = "needs to know the device: give --target"
    return ConfigError(f"{metric.label} {how}")


def check_hand_over(folder: Path) -> None:
    """Raise where the end of a search would fail, although its trials would not.

    Raises:
        ExportError: ONNX files cannot be written or run here.
        RunDirectoryError: the disk has too little room for what is handed over.
    """
    check_format("onnx")
    parent = next(p for p in (folder, *folder.absolute().parents) if p.is_dir())
    free_mb = shutil.disk_usage(parent).free / 1e6
    if free_mb < LEAST_MB:
        raise RunDirectoryError(
            f"output folder '{folder}' is on a disk with {free_mb:.0f} MB left, and what a search"
            f" hands over may take {LEAST_MB} MB; make room, or choose another --output"
        )
