"""Peak memory of one model in a process of its own: `python -m autotok.profiling.footprint JOB`.

A process that has run other models says nothing about one, so each is measured afresh. Torch and
timm are loaded in all of them, as in the command line's. JOB and the
answer are JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass

from autotok.config import CompressionConfig
from autotok.errors import AutotokError

__all__ = ["Footprint", "footprint"]

TIMEOUT_S = 300


@dataclass(frozen=True)
class Footprint:
    """Resident memory of a process that runs a model, in MB."""

    idle_mb: float
    """Before there was a model."""
    peak_mb: float
    """High-water mark of a forward, everything included."""


def footprint(backbone: str, config: CompressionConfig, *, batch: int, threads: int) -> Footprint:
    """Run a model with random weights in a fresh process and read its high-water mark.

    Raises:
        AutotokError: the process failed.
    """
    job = {"backbone": backbone, "config": config.to_dict(), "batch": batch, "threads": threads}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "autotok.profiling.footprint", json.dumps(job)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise AutotokError(f"memory of '{backbone}' could not be measured: {reason}")
    return Footprint(**json.loads(done.stdout.splitlines()[-1]))


def _main(job: str) -> None:
    import torch

    import autotok.backbones.timm_vit
    import autotok.methods  # noqa: F401
    from autotok.backbones.loading import load_structure
    from autotok.compression.compress import compress_backbone
    from autotok.profiling.measure import high_water_mb, reset_high_water

    wanted = json.loads(job)
    torch.set_num_threads(wanted["threads"])
    load_structure(wanted["backbone"])  # what loading itself needs is no part of the model
    reset_high_water()
    idle = high_water_mb()
    model = compress_backbone(
        load_structure(wanted["backbone"], device="cpu"),
        CompressionConfig.from_dict(wanted["config"]),
    ).eval()
    images = torch.randn(wanted["batch"], *model.backbone.facts.image_shape)
    reset_high_water()
    with torch.inference_mode():
        for _ in range(2):
            model(images)
    sys.stdout.write(json.dumps({"idle_mb": idle, "peak_mb": high_water_mb()}) + "\n")


if __name__ == "__main__":
    _main(sys.argv[1])
