"""`Live`: answers of a model that is run, each configuration at its own exact cost.

The other half of `recorded.py`: slower, but nothing is replaced by the nearest thing that was
recorded. What was judged is kept in a file, if one is named, so that a comparison goes on where it
was stopped.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from record import QUESTIONS

from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig
from autotok.facts import BackboneFacts
from autotok.searching.running.session import build_problem

LIVE = {
    "demo": QUESTIONS["demo"],
    "dinov2-112": dataclasses.replace(QUESTIONS["dinov2"], image_size=112),
    "cifar-112": QUESTIONS["cifar"],
}


class Live:
    """One model and its first images."""

    def __init__(
        self, name: str, images: int, *, data: str | None, checkpoint: str | None, kept: Path | None
    ) -> None:
        """`data` and `checkpoint` replace those of the question; `kept` is the file of answers."""
        if name not in LIVE:
            raise ValueError(f"live model '{name}' is unknown; there is {', '.join(LIVE)}")
        named = {k: v for k, v in (("data", data), ("checkpoint", checkpoint)) if v is not None}
        question = dataclasses.replace(LIVE[name], precision="float32", **named)
        session = build_problem(question, finetunes=0)
        self._session, self._images, self._kept = session, images, kept
        self._known: dict[str, list[float]] = {}
        if kept is not None and kept.exists():
            self._known = dict(map(json.loads, kept.read_text(encoding="utf-8").splitlines()))
        self.facts: BackboneFacts = session.problem.facts
        self.whole = float(session.problem.costs.cost(CompressionConfig()).macs)
        session.evaluator.reference(0, images)

    def answer(self, config: CompressionConfig, limit: float) -> tuple[float, NDArray[np.float64]]:
        """(multiply-accumulates, divergence of every image)."""
        config = config.plugged_in
        found = self._known.get(config.config_id) or self._judged(config)
        return float(self._session.problem.costs.cost(config).macs), np.array(found)

    def _judged(self, config: CompressionConfig) -> list[float]:
        model = compress_backbone(self._session.backbone, config)
        found = list(self._session.evaluator.evaluate(model, 0, self._images).kls)
        self._known[config.config_id] = found
        if self._kept is not None:
            with self._kept.open("a", encoding="utf-8") as file:
                file.write(json.dumps([config.config_id, found]) + "\n")
        return found

    def blind(self, images: range) -> float:
        """The divergence of guessing: among the classes, or among the images of the gallery."""
        return math.log(self.facts.num_classes or self._session.evaluator.gallery_size)
