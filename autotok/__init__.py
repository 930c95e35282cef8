"""autotok: automated compression search for Vision Transformers.

    import autotok
    model = autotok.compress(timm_model, method="tome", r=13)     # one model, one method
    run = autotok.search(backbone="deit_small_patch16_224", data="photos/", budget="2.3GFLOPs")

Importing autotok imports nothing heavy; names are looked up when first used.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

_STUB = Path(__file__).with_suffix(".pyi").read_text("utf-8")
_HOME = {name: home for home, name in re.findall(r"^from (\S+) import (\w+)", _STUB, re.MULTILINE)}
"""Where every public name is; also all that the command line is made of."""
__all__ = [*sorted(_HOME), "__version__"]

# `autotok.export` is a verb and a room. The import system writes a room's name into its parent when
# it first loads it, over whatever stands there: done here, that is over before the verb is
# asked for. The verb wears the room's names: `import autotok.export.onnx as file` goes on working.
_EXPORT_ROOM = importlib.import_module("autotok.export")
globals().pop("export")


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'autotok' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOME[name]), name)
    if name == "export":
        value.__dict__ = vars(_EXPORT_ROOM)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
