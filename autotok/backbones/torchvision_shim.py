"""Lets `import torchvision` (hence timm) work when its compiled library does not match torch.

The registry's torchvision wheel is a CUDA build. Beside a CPU-only torch its library fails to load,
so the operators it would define do not exist, and `import torchvision` dies while registering their
fake kernels: "operator torchvision::nms does not exist". autotok uses none of those operators, so
declaring their schemas (no kernels) is enough. This is done only when the library is there but
could not be loaded; a healthy torchvision is left alone.
"""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_libraries: list[
    torch.library.Library
] = []  # kept alive: a collected library undefines its schemas


@cache
def ensure_torchvision() -> str:
    """'ok', 'repaired' or 'missing'; after 'ok' and 'repaired', `import torchvision` works."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return "missing"
    if "torchvision" in sys.modules or _library_loads(Path(spec.origin).parent):
        return "ok"
    library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS.values():
        library.define(schema)
    _libraries.append(library)
    return "repaired"


def torchvision_state() -> str:
    """One sentence for `autotok doctor`."""
    return {
        "ok": "torchvision's own operators load",
        "repaired": "torchvision's compiled library does not match this torch (a CUDA build beside"
        " CPU torch?); its missing operator schemas were declared, image models are unaffected",
        "missing": "torchvision is not installed; timm needs it: pip install torchvision",
    }[ensure_torchvision()]


def _library_loads(folder: Path) -> bool:
    """Whether torchvision's compiled library can be loaded into this process."""
    candidates = sorted(folder.glob("_C*.so")) + sorted(folder.glob("_C*.pyd"))
    for path in candidates:
        try:
            torch.ops.load_library(str(path))
        except OSError:
            return False
    return bool(candidates)
