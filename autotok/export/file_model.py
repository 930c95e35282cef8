"""`FileModel`: an exported file where a model is expected, so that it can be judged as one is."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from autotok.backbones.base import repeated, shrunk
from autotok.compression.model import CompressedViT
from autotok.config import CompressionConfig

from .exported import export_model
from .formats import FORMATS


class FileModel(nn.Module):
    """A file of fixed batch as a model: logits (B, classes) of images (B, C, H, W)."""

    def __init__(self, opened: nn.Module, config: CompressionConfig, *, batch: int = 1) -> None:
        """`opened` is what `ExportFormat.open` gives of a file written for `batch` images."""
        super().__init__()
        self.config, self.batch = config, batch
        self._run: Callable[[Tensor], Tensor] = opened.__call__  # no part of it: it has no modes

    def forward(self, images: Tensor) -> Tensor:
        """(B, classes), on the host; B need not be a multiple of the batch."""
        images = shrunk(images, self.config.image_size)
        wanted = len(images)
        full = repeated(images, -(-wanted // self.batch) * self.batch)
        return torch.cat([self._run(chunk) for chunk in full.split(self.batch)])[:wanted]


def as_file(model: CompressedViT, calibration: Tensor) -> FileModel:
    """The model in the number format of its configuration, as the file that would be shipped.

    Args:
        calibration: (n, C, H, W) normalised, what int8 is calibrated on.

    Raises:
        ExportError: it cannot be written.
    """
    chosen, calibration = FORMATS.get("onnx"), shrunk(calibration, model.config.image_size)
    with tempfile.TemporaryDirectory(prefix="autotok-file-") as folder:
        path = Path(folder) / f"model{chosen.suffix}"
        export_model(model, path, calibration[:1], calibration=calibration, strict=False)
        opened = chosen.open(path, torch.device("cpu"))
    return FileModel(opened, model.config)
