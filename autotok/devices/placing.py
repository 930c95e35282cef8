"""Where models run for quality and training: `--device auto | cpu | cuda[:N] | mps`."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from autotok.errors import ConfigError, UnknownName

if TYPE_CHECKING:
    import torch

_KNOWN = ("auto", "cpu", "cuda", "cuda:0", "mps")


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
