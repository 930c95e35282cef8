"""What `autotok doctor` looks at."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable
from dataclasses import dataclass

REQUIRED = ("torch", "timm", "numpy", "optuna", "pandas", "scikit-learn", "safetensors", "onnx",
            "onnxruntime", "onnxscript", "matplotlib", "typer", "rich")  # fmt: skip
OPTIONAL = {
    "ray": "pip install 'autotok[ray]' for Ray Tune",
    "fvcore": "pip install 'autotok[check]' for its count in profile --check",
}


@dataclass(frozen=True)
class HealthCheck:
    """One finding; `ok` is false only for what stops autotok from working."""

    name: str
    ok: bool
    detail: str


def diagnose(measure_on: str | None = None) -> list[HealthCheck]:
    """All findings, in the order they are worth reading; device `measure_on` is asked first.

    Raises:
        DeviceUnreachable: the device is silent.
    """
    answer = (
        None if measure_on is None else _answer(measure_on)
    )  # before the rest, which takes seconds
    checks = [HealthCheck("python", True, f"{platform.python_version()} on {platform.platform()}")]
    checks += [_package(name) for name in REQUIRED]
    checks += [_package(name, optional=hint) for name, hint in OPTIONAL.items()]
    checks += [
        _guarded("torchvision", _torchvision),
        _guarded("timm adapter", _timm_adapter),
        _guarded("devices", _devices),
        _guarded("demo weights", _demo_weights),
        _guarded("methods", _methods),
    ]
    if answer is not None:
        checks.append(HealthCheck(f"device {measure_on}", True, answer))
    return checks


def _answer(text: str) -> str:
    """What a device says of itself."""
    from autotok.devices.device import leaving, open_device

    device = open_device(text)
    with leaving(device):
        return device.check()


def _package(name: str, *, optional: str | None = None) -> HealthCheck:
    try:
        return HealthCheck(name, True, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        if optional is not None:
            return HealthCheck(name, True, f"not installed (optional: {optional})")
        return HealthCheck(name, False, f"not installed: pip install {name}")


def _guarded(name: str, look: Callable[[], str]) -> HealthCheck:
    try:
        return HealthCheck(name, True, look())
    except Exception as error:  # whatever is broken is the finding
        return HealthCheck(
            name, False, f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"
        )


def _torchvision() -> str:
    from autotok.backbones.torchvision_shim import torchvision_state

    return torchvision_state()


def _timm_adapter() -> str:
    from autotok.backbones.tiny import tiny_backbone

    facts = tiny_backbone().facts
    return f"a tiny ViT ({facts.num_blocks} blocks) passes the adapter's self-test"


def _devices() -> str:
    import torch

    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"{torch.get_num_threads()} CPU threads; CUDA: {', '.join(cuda) or 'none'}"


def _demo_weights() -> str:
    from autotok.backbones.loading import load_backbone

    facts = load_backbone("autoformer_demo").facts
    return f"{facts.params / 1e6:.2f} M parameters, {facts.num_patches} patches"


def _methods() -> str:
    from autotok.methods import list_methods

    return ", ".join(list_methods())
