"""What the processes of one run share instead of loading their own: decoded images and weights."""

from __future__ import annotations

import logging
import pickle
import shutil
from pathlib import Path

import torch

from autotok.backbones.base import Backbone
from autotok.backbones.supernet import AutoFormerSupernet
from autotok.evaluation.data import DataSource
from autotok.evaluation.folder import PixelCache
from autotok.evaluation.shared_pixels import SharedPixels

from .session import Session

__all__ = ["SHARED_FOLDER", "Loaded", "load_shared", "share", "share_images"]

_LOG = logging.getLogger(__name__)
SHARED_FOLDER = "shared"
"""Inside the run directory, while workers run."""

Loaded = tuple[Backbone, AutoFormerSupernet | None]


def share(session: Session, folder: Path) -> Path:
    """The folder, new, with the session's weights and room for its images.

    A model that does not pickle is left out: each worker loads its own then, as it is named.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    loaded: Loaded = (session.backbone, session.worker.supernet)
    try:
        torch.save(loaded, folder / "model.pt")
    except (pickle.PicklingError, AttributeError, TypeError, RuntimeError) as error:
        (folder / "model.pt").unlink(missing_ok=True)
        _LOG.info("each worker loads its own model: %s", error)
    data = session.evaluator.data
    cache = _cache(data)
    if cache is not None:
        index = data.subset(1, session.evaluator.seed)[0]
        first = cache.get(index)
        if first is not None:
            cache.shared = SharedPixels.create(folder, 2 * len(data) + index, first)
    return folder


def load_shared(folder: Path | None) -> Loaded | None:
    """The model that `share` left, its weights mapped from the file; None where there is none."""
    if folder is None or not (folder / "model.pt").is_file():
        return None
    # the driver of this run wrote the file moments ago: unpickling it runs nobody else's code
    try:
        loaded: Loaded = torch.load(folder / "model.pt", mmap=True, weights_only=False)
    except UnicodeEncodeError:  # torch maps no file whose name the locale cannot say
        return None
    return loaded


def share_images(data: DataSource, folder: Path | None) -> None:
    """Read decoded images from the folder that `share` made, and leave new ones there."""
    cache = _cache(data)
    if cache is not None and folder is not None and (folder / "images.json").is_file():
        cache.shared = SharedPixels.open(folder)


def _cache(data: DataSource) -> PixelCache | None:
    cache = getattr(data, "_cache", None)
    return cache if isinstance(cache, PixelCache) else None
