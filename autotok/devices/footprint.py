"""Peak memory of one model in a process of its own: `python -m autotok.devices.footprint JOB`.

A process that has run other models says nothing about one, so each is measured afresh: a backbone
by name with random weights, or a model as it is, handed over. Torch and timm are loaded
in all of them, as in the command line's. JOB and the answer are JSON.
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotok.config import CompressionConfig
from autotok.errors import AutotokError

if TYPE_CHECKING:
    from torch import Tensor, nn

TIMEOUT_S = 300
SOURCE = "high-water mark of a process of its own, torch and weights included"
BARE = ("onnxruntime", "openvino")
"""Runtimes of files that `board.py` starts without torch."""


def footprint(backbone: str, config: CompressionConfig, *, batch: int, threads: int) -> float:
    """Peak memory in MB of a model with random weights in a fresh process, everything included.

    Raises:
        AutotokError: the process failed.
    """
    job = {"backbone": backbone, "config": config.to_dict(), "batch": batch, "threads": threads}
    return _run(job, backbone)


def footprint_of(model: nn.Module, images: Tensor, *, threads: int) -> float:
    """The memory of `model(images)` in a fresh process; of a supernet's view, that of its subnet.

    Raises:
        AutotokError: the process failed, or the model cannot be handed over to it.
    """
    from .handed_model import take_apart

    backbone = getattr(model, "backbone", model)
    name = getattr(getattr(backbone, "facts", None), "name", type(model).__name__)
    with tempfile.TemporaryDirectory(prefix="autotok-footprint-") as folder:
        path = Path(folder) / "weights.safetensors"
        try:
            rest = take_apart((_alone(model), images.clone()), path)
        except Exception as error:  # pickling raises whatever an object's own methods do
            raise _sorry(name, str(error)) from error
        return _run({"weights": str(path), "threads": threads}, name, rest)


def file_footprint(
    path: Path, runtime: str, shape: Sequence[int], *, threads: int
) -> tuple[float, str]:
    """Peak memory in MB of a fresh process in which a runtime, and nothing of torch or autotok,
    runs the model file `path` on the CPU; and what was read, in words.

    Args:
        path: A file that `runtime` takes.
        runtime: One of `BARE`.
        shape: (batch, channels, height, width) of its images.
        threads: Of the runtime.

    Raises:
        AutotokError: the process failed.
    """
    job = {"runtime": runtime, "path": str(path), "shape": list(shape), "threads": threads}
    job |= {"cpu": True, "timeout_s": TIMEOUT_S / 2}
    found = _answer(["autotok.devices.board", "--memory", json.dumps(job)], path.name)
    if "error" in found:
        raise _sorry(path.name, found["words"])
    how = f"high-water mark of a process of its own, {runtime} and weights included"
    return float(found["peak_memory_mb"]), how


def _alone(model: nn.Module) -> nn.Module:
    """The model without weights that its backbone shares with others."""
    from autotok.backbones.base import Backbone

    inner = getattr(model, "backbone", model)
    alone = inner.alone() if isinstance(inner, Backbone) else inner
    if alone is inner:
        return model
    if inner is model:
        return alone
    twin = copy.copy(model)
    twin._modules = {**model._modules, "backbone": alone}
    return twin


def _run(job: dict[str, Any], name: str, rest: bytes = b"") -> float:
    """What a process with this job says."""
    return float(_answer(["autotok.devices.footprint", json.dumps(job)], name, rest)["peak_mb"])


def _answer(words: list[str], name: str, rest: bytes = b"") -> dict[str, Any]:
    """What the last line says of a module of ours, run as a process of its own."""
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", *words],
            input=rest,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _sorry(name, f"not done after {TIMEOUT_S} s") from error
    if done.returncode:
        raise _sorry(
            name,
            done.stderr.decode(errors="replace")
            or f"the process ended with status {done.returncode}",
        )
    last = (done.stdout.splitlines() or [b""])[-1]
    try:
        return dict(json.loads(last))
    except (ValueError, TypeError):
        raise _sorry(name, f"the process ended with '{last.decode(errors='replace')}'") from None


def _sorry(name: str, words: str) -> AutotokError:
    reason = (words.strip().splitlines() or ["no message"])[-1]
    return AutotokError(f"memory of '{name}' could not be measured: {reason}")


def _main(job: str) -> None:
    import torch

    import autotok.backbones.timm_vit
    import autotok.methods  # noqa: F401
    from autotok.backbones.loading import load_structure
    from autotok.compression.compress import compress_backbone

    from .board import high_water_mb, reset_high_water
    from .handed_model import put_together

    wanted = json.loads(job)
    torch.set_num_threads(wanted["threads"])
    if "backbone" in wanted:
        load_structure(wanted["backbone"])  # what loading itself needs is no part of the model
    model: nn.Module
    if "weights" in wanted:
        model, images = put_together(sys.stdin.buffer.read(), Path(wanted["weights"]))
        model.eval()
    else:
        model = compress_backbone(
            load_structure(wanted["backbone"], device="cpu"),
            CompressionConfig.from_dict(wanted["config"]),
        ).eval()
        images = torch.randn(wanted["batch"], *model.backbone.facts.image_shape)
    reset_high_water()
    with torch.inference_mode():
        for _ in range(2):
            model(images)
    sys.stdout.write(json.dumps({"peak_mb": high_water_mb()}) + "\n")


if __name__ == "__main__":
    _main(sys.argv[1])
