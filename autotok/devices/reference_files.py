"""`ReferenceFiles`: uncompressed models as files, exported once however often they are timed."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path

from torch import Tensor, nn

from autotok.errors import ExportError
from autotok.export.exported import export_model
from autotok.export.formats import ExportFormat
from autotok.export.graph_parts import has_parts
from autotok.export.weights import weights_identity


class ReferenceFiles:
    """Files of models in a folder of their own, which `close` removes, as the garbage collector
    does. What a file holds is known by the model, its weights, the format and the images' shape."""

    def __init__(self) -> None:
        self._files: weakref.WeakKeyDictionary[nn.Module, dict[tuple[object, ...], Path]] = (
            weakref.WeakKeyDictionary()
        )
        self._written = 0
        self._remove: weakref.finalize[..., ReferenceFiles] | None = None
        self._folder = Path()

    def file(self, model: nn.Module, images: Tensor, format: ExportFormat) -> Path:
        """The file of a model for batches like `images`, written unless it is there.

        Raises:
            ExportError: it cannot be written.
        """
        key = format.name, tuple(images.shape), weights_identity(model)
        known = self._files.setdefault(model, {})
        if key not in known:
            path = self._ready() / f"reference{self._written}{format.suffix}"
            export_for_timing(model, path, images, format.name)
            known[key] = path
            self._written += 1
        return known[key]

    def close(self) -> None:
        """Remove the files; what is asked for afterwards is written anew."""
        if self._remove is not None:
            self._remove()
        self._remove = None
        self._files.clear()

    def _ready(self) -> Path:
        if self._remove is None:
            self._folder = Path(tempfile.mkdtemp(prefix="autotok-reference-"))
            self._remove = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder


def export_for_timing(model: nn.Module, path: Path, images: Tensor, format: str) -> None:
    """Write a file to time; how well it agrees with torch is `autotok export`'s to say.

    Raises:
        ExportError: the model stops early, so that one image's time says little.
    """
    if has_parts(model):
        raise ExportError(
            "how long a model that stops early runs depends on the image: time its files on images"
            " of yours with autotok export --measure --data, or it in torch with --runtime eager"
        )
    export_model(model, path, images, format=format, batch=len(images), strict=False)
