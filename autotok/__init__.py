"""autotok: automated compression search for Vision Transformers.

    import autotok
    model = autotok.compress(timm_model, method="tome", r=13)     # one model, one method
    run = autotok.search(backbone="deit_small_patch16_224", data="photos/", budget="2.3GFLOPs")

Importing autotok imports nothing heavy; names are looked up when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "autotok.api.models": ("compress", "evaluate", "export", "macs", "predict", "profile"),
    "autotok.searching.running.asktell": ("AskTell",),
    "autotok.api.finetune": ("FineTuneResult", "finetune"),
    "autotok.api.runs": ("Run", "resume", "search"),
    "autotok.backbones.loading": ("as_backbone", "load_backbone"),
    "autotok.config": ("CompressionConfig", "FineTuneSpec", "Reduction", "SubnetSpec"),
    "autotok.errors": ("AutotokError",),
    "autotok.methods": (
        "Kind", "Option", "Placement", "Site", "TokenReducer", "Training",
        "get_method", "list_methods", "register",
    ),
    "autotok.predicting.target": ("list_targets", "load_target"),
    "autotok.tokens": ("Needs", "Taps", "Tokens"),
}  # fmt: skip
_HOME = {name: module for module, names in _HOMES.items() for name in names}

# `autotok.export` is a verb and a room. The import system writes a room's name into its parent when
# it first loads it, over whatever stands there: done here, that is over before the verb is
# asked for. The verb wears the room's names: `import autotok.export.onnx as file` goes on working.
_EXPORT_ROOM = importlib.import_module("autotok.export")
globals().pop("export")

__all__ = [
    "AskTell",
    "AutotokError",
    "CompressionConfig",
    "FineTuneResult",
    "FineTuneSpec",
    "Kind",
    "Needs",
    "Option",
    "Placement",
    "Reduction",
    "Run",
    "Site",
    "SubnetSpec",
    "Taps",
    "TokenReducer",
    "Tokens",
    "Training",
    "__version__",
    "as_backbone",
    "compress",
    "evaluate",
    "export",
    "finetune",
    "get_method",
    "list_methods",
    "list_targets",
    "load_backbone",
    "load_target",
    "macs",
    "predict",
    "profile",
    "register",
    "resume",
    "search",
]

if TYPE_CHECKING:
    from autotok.api.finetune import FineTuneResult, finetune
    from autotok.api.models import compress, evaluate, export, macs, predict, profile
    from autotok.api.runs import Run, resume, search
    from autotok.backbones.loading import as_backbone, load_backbone
    from autotok.config import CompressionConfig, FineTuneSpec, Reduction, SubnetSpec
    from autotok.errors import AutotokError
    from autotok.methods import (
        Kind,
        Option,
        Placement,
        Site,
        TokenReducer,
        Training,
        get_method,
        list_methods,
        register,
    )
    from autotok.predicting.target import list_targets, load_target
    from autotok.searching.running.asktell import AskTell
    from autotok.tokens import Needs, Taps, Tokens


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
