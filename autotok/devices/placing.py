"""How one says where models run (`--device cuda:1`) and what they are timed on (`--measure-on`)."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from autotok.errors import ConfigError, UnknownName

from .ssh_address import SshAddress

if TYPE_CHECKING:
    import torch

_KNOWN = ("auto", "cpu", "cuda", "cuda:0", "mps")
_TIMED_ON = ("local", "ssh://user@host", "ray:RESOURCE")
RAY = re.compile(r"ray:([A-Za-z0-9_][A-Za-z0-9_.-]*)(?:@(auto|[A-Za-z0-9_.\[\]:-]+:\d+))?")
"""Resource of the node, and the cluster's address."""


def check_device(name: str) -> None:
    """Raise unless a device is spelt as torch does; torch is not imported for it.

    Raises:
        ConfigError: it says where models are timed, which is another option.
        UnknownName: it is no device.
    """
    if name.partition("?")[0] in ("local", "none") or name.startswith(("ssh:", "ray:")):
        raise ConfigError(
            f"device '{name}' is where models are timed, and --device is where they run (auto, cpu,"
            f" cuda[:N] or mps); write --measure-on {name}"
        )
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
        raise UnknownName("device", name, _KNOWN)


def check_measure_on(name: str) -> None:
    """Raise `UsageError` unless a device to time on is spelt right; nothing is asked of it."""
    if name.startswith("ssh:"):
        SshAddress.parse(name)
    elif name.startswith("ray:") and not RAY.fullmatch(name):
        raise ConfigError(
            f"device '{name}' must be ray:RESOURCE, or ray:RESOURCE@HOST:PORT of the cluster's head"
        )
    elif not name.startswith("ray:") and not re.fullmatch(r"local(\?runtime=.*)?", name):
        raise UnknownName("--measure-on", name, _TIMED_ON)


def torch_device(name: str = "auto") -> torch.device:
    """The device of a name; 'auto' is the first CUDA device, or the CPU where there is none.

    Raises:
        ConfigError: there is no such device here.
    """
    check_device(name)
    import torch

    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if cuda else "cpu"
    device = torch.device("cuda:0" if name == "cuda" else name)
    missing = device.type == "cuda" and device.index >= cuda
    if missing or (device.type == "mps" and not torch.backends.mps.is_available()):
        there = ", ".join(["cpu", *(f"cuda:{number}" for number in range(cuda))])
        raise ConfigError(f"device '{name}' is not here; there is {there}, or leave it at auto")
    return device


def gpus_to_share(name: str) -> list[str]:
    """GPUs among which worker processes are spread, as CUDA_VISIBLE_DEVICES has them; none unless
    any GPU is meant, and there are several."""
    if name not in ("auto", "cuda"):
        return []
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    shown = [text for text in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if text]
    return (shown or [str(number) for number in range(count)])[:count] if count > 1 else []
