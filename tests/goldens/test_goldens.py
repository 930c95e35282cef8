"""Every golden file in tests/golden, and in the folder that AUTOTOK_GOLDEN_DIR names, reproduced.

A file is read by the reader of the method its configuration names; one that no reader knows fails.
"""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runner import GOLDEN, Reader, close, folders, images, opened, tiny_vit, verify

from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig


def readers() -> dict[str, Reader]:
    found: dict[str, Reader] = {}
    for path in sorted(Path(__file__).parent.glob("readers_*.py")):
        found |= importlib.import_module(path.stem).READERS
    return found


def collect() -> list[Any]:
    return [
        pytest.param(path, id=f"{path.stem}{'' if folder == GOLDEN else '-extra'}")
        for folder in folders()
        for path in sorted(folder.glob("*.npz"))
        if not elsewhere(path)
    ]


def elsewhere(path: Path) -> bool:
    """Whether a file is about no method: weights and images that the files were made with, and
    losses and AutoFormers, which tests of those rooms compare."""
    with np.load(path) as arrays:
        if "config" not in arrays:
            return True
    with opened(path) as (config, _):
        return "method" not in config or config["method"].startswith("training losses")


@torch.no_grad()
def test_the_uncompressed_model_reproduces_its_logits() -> None:
    with np.load(GOLDEN / "inputs.npz") as arrays:
        close(compress_backbone(tiny_vit(), CompressionConfig())(images()), arrays["logits"])


@pytest.mark.parametrize("path", collect())
def test_the_authors_outputs_are_reproduced(path: Path) -> None:
    with opened(path) as (config, arrays):
        verify(readers()[config["method"]](config, arrays), arrays)
