"""What the trials of one study share beside its space and budgets, in words.

Runs on several machines join one study: nothing here depends on where files lie.
"""

from __future__ import annotations

import hashlib

from torch import nn

from autotok.evaluation.accuracy import Evaluator
from autotok.evaluation.data import DataSource
from autotok.evaluation.folder import FolderData
from autotok.export.weights import weights_identity
from autotok.predicting.target import Target


def held_by(evaluator: Evaluator, weights: nn.Module, target: Target | None) -> dict[str, str]:
    """By name: what judges every trial of a study, compared image by image, and what its costs
    on a device mean."""
    return {
        "data": _images(evaluator.data),
        "class names": _classes(evaluator.data.class_names),
        "seed": str(evaluator.seed),  # the order of the images
        "weights": weights_identity(weights),
        "target": "none" if target is None else target.name,
        **_numbers(target),
    }


def _numbers(target: Target | None) -> dict[str, str]:
    """Of a target that predicts, which may be calibrated anew under its name; those of `local` are
    every machine's own."""
    if target is None or target.name == "local":
        return {}
    lines = "\n".join(f"{name} {number.value!r}" for name, number in target.numbers())
    return {f"numbers of target '{target.name}'": hashlib.sha256(lines.encode()).hexdigest()[:8]}


def _images(data: DataSource) -> str:
    if isinstance(data, FolderData):
        return f"a folder of images ({data.identity})"  # how many can be read turns out later
    return f"{data.name} of {len(data)} images"


def _classes(names: tuple[str, ...] | None) -> str:
    if not names:
        return "none"
    digest = hashlib.sha256("\0".join(names).encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{names[0]} to {names[-1]} ({len(names)}, {digest})"
