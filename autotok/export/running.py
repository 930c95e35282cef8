"""A file is written without a noise and run: what its runtime refuses is an `ExportError`."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from autotok.backbones.torchvision_shim import ensure_torchvision
from autotok.errors import ExportError, failure

from .formats import ExportFormat, not_exported

TOLERANCE = 1e-3
"""Of the largest output, by which a float32 file may differ from torch."""
_BATCHES = (1, 2, 3)
"""One that the example has, and one on either side."""


@contextmanager
def running(format: ExportFormat) -> Iterator[None]:
    """What a runtime raises inside becomes an `ExportError`; its own types are private."""
    try:
        yield
    except ExportError:
        raise
    except Exception as error:
        reason = f"{format.version()} does not run the file ({failure(error)[:200]})"
        raise not_exported(format.name, reason) from error


def check_any_batch(format: ExportFormat, model: nn.Module, path: Path, images: Tensor) -> None:
    """Raise `ExportError` unless a float32 file says of any number of images what torch does.

    Exporters may write the example's batch into the graph without a word.

    Args:
        images: (2 or more, C, H, W), from which others are made.
    """
    images = torch.cat([images[:2], images[:1].flip(-1)])
    for batch in _BATCHES:
        expected = model(images[:batch])
        with running(format):
            got = format.run(path, images[:batch], batch)
        largest = float(expected.abs().max())
        if got.shape != expected.shape or not float((got - expected).abs().max()) <= (
            TOLERANCE * max(1e-6, largest)
        ):
            raise not_exported(format.name, f"at a batch of {batch} the file disagrees with torch")


@contextmanager
def quiet() -> Iterator[None]:
    """Exporters deprecate themselves and announce every step; none of it is for the user."""
    ensure_torchvision()  # torch.onnx imports it
    noisy = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [log.level for log in noisy]
    for log in noisy:
        log.setLevel(logging.ERROR)
    root = logging.getLogger()  # ONNX Runtime's quantiser says everything there
    root.addFilter(_is_error)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeFilter(_is_error)
        for log, level in zip(noisy, levels, strict=True):
            log.setLevel(level)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
