"""A fine-tune on disk, whole or not at all, so that a killed one goes on where it stopped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from autotok.errors import CheckpointError
from autotok.files import write_state

__all__ = ["read_checkpoint", "write_checkpoint"]

FORMAT = 1
_WORDS = {
    "config": "its configuration differs",
    "spec": "its fine-tune settings differ",
    "data": "its training images differ",
    "weights": "its starting weights differ",
    "teacher": "its teacher differs",
    "precision": "its precision differs",
}


def write_checkpoint(path: Path, identity: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Replace the checkpoint at `path`; a reader or a crash never meets half of one.

    Raises:
        RunDirectoryError: the disk is full, or the folder cannot be written.
    """
    write_state(path, {"format": FORMAT, "identity": dict(identity), **state})


def read_checkpoint(path: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """What `write_checkpoint` stored; None if there is no file.

    A key of `identity` that is None is not compared.

    Raises:
        CheckpointError: damaged, or of another fine-tune.
    """
    if not path.is_file():
        return None
    try:
        data = torch.load(path, weights_only=True, map_location="cpu")
        found, version = data["identity"], data["format"]
    except Exception as error:  # the unpickler raises whatever the garbage makes it raise
        raise CheckpointError(
            f"checkpoint '{path}' cannot be read ({type(error).__name__}); delete it to start over"
        ) from error
    if version != FORMAT:
        raise CheckpointError(
            f"checkpoint '{path}' was written by another autotok; delete it to start over"
        )
    for key, value in identity.items():
        if value is not None and found.get(key) != value:
            raise CheckpointError(
                f"checkpoint '{path}' belongs to another fine-tune ({_WORDS.get(key, key)}); give"
                " another path, or delete it to start over"
            )
    return dict(data)
