"""`autotok.load`: whatever autotok wrote, by its path."""

from __future__ import annotations

from pathlib import Path

from autotok.compression.compress import with_networks
from autotok.compression.model import CompressedViT
from autotok.export.bundle import load_bundle
from autotok.plain_data import read_yaml

from .run import Run

__all__ = ["load"]


def load(path: str | Path) -> Run | CompressedViT:
    """The `Run` of a run directory, or the model of a `best.yaml` or of a bundle's folder.

    Raises:
        UsageError: it is neither; the message says what is wrong with it.
    """
    config = Path(path) / "config.yaml"  # of a run, or of a bundle
    if config.is_file() and "search" in dict(read_yaml(config)[0] or {}):
        return Run(path)
    return with_networks(load_bundle(Path(path)))
