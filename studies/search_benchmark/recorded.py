"""`Recorded`: a table of configurations of one model, each with what it does to every image.

Read by `benchmarks/search.py`, written by `record.py`. Neither weights nor images are needed to
read it.
"""

from __future__ import annotations

import gzip
import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autotok.backbones.loading import load_structure
from autotok.config import CompressionConfig
from autotok.counting.macs import cost
from autotok.facts import BackboneFacts
from autotok.searching.proposing.candidates import tokens_by_depth

HERE = Path(__file__).parent
COST_WEIGHT = 2.0
"""Of the cost in the distance of two configurations, beside the tokens left at twelve depths."""


def read_rows(path: Path) -> list[dict[str, object]]:
    """Origin and configuration of every row."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@dataclass(frozen=True)
class Recorded:
    """n configurations over k images."""

    about: dict[str, object]
    """Backbone, data and the conditions of the recording."""
    origins: tuple[str, ...]
    configs: tuple[CompressionConfig, ...]
    kl: NDArray[np.float32]
    """(n, k) divergence from the uncompressed model, nan where not recorded yet."""
    right: NDArray[np.int8]
    """(n, k) 1 where the label is met, 0 where not, -1 where there is none or nothing recorded."""
    slowness: NDArray[np.float32]
    """(n, blocks of images) time over that of the uncompressed model, run in between; nan where a
    block was not timed."""

    @classmethod
    def load(cls, name: str, images: int) -> Recorded:
        """The configurations of the table of that name that were judged on so many images."""
        folder = HERE / name
        if not (folder / "about.json").is_file():
            known = ", ".join(sorted(p.parent.name for p in HERE.glob("*/about.json")))
            raise ValueError(f"table '{name}' is not recorded here; there is {known}")
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        rows = read_rows(folder / "configurations.jsonl.gz")
        with np.load(folder / "images.npz", allow_pickle=False) as arrays:
            kl, right, slowness = (arrays[key] for key in ("kl", "right", "slowness"))
        known = np.flatnonzero(~np.isnan(kl[:, :images]).any(axis=1))
        if images > kl.shape[1] or 0 not in known:
            raise ValueError(f"table '{name}' has not been recorded on {images} images")
        rows = [rows[i] for i in known]
        return cls(
            about,
            tuple(str(row["origin"]) for row in rows),
            tuple(CompressionConfig.from_json(json.dumps(row["config"])) for row in rows),
            kl[known].astype(np.float32),
            right[known],
            slowness[known].astype(np.float32),
        )

    @cached_property
    def facts(self) -> BackboneFacts:
        """Of the model that was recorded."""
        size = self.about["image_size"]
        return load_structure(
            str(self.about["backbone"]), image_size=int(str(size)) if size else None
        ).facts

    @cached_property
    def macs(self) -> NDArray[np.float64]:
        """(n,) exact cost of an image."""
        return np.array([cost(self.facts, c).macs for c in self.configs], dtype=float)

    @property
    def whole(self) -> float:
        """Cost of the uncompressed model, which is the first row."""
        return float(self.macs[0])

    @cached_property
    def _places(self) -> NDArray[np.float64]:
        return np.array([self._place(c, m) for c, m in zip(self.configs, self.macs, strict=True)])

    @cached_property
    def _methods(self) -> NDArray[np.str_]:
        return np.array([c.method for c in self.configs])

    def _place(self, config: CompressionConfig, macs: float) -> list[float]:
        layers = [r.layer for r in config.reductions]
        counts = [int(r.num_keep or 0) for r in config.reductions]
        left = tokens_by_depth(layers, counts, self.facts)
        return [*left, COST_WEIGHT * macs / self.whole]

    def nearest(self, config: CompressionConfig, macs: float, limit: float) -> tuple[int, float]:
        """(row of the most similar configuration of the same method inside a limit of cost, how far
        it is: root mean square over the depths)."""
        place = np.array(self._place(config, macs))
        may = np.flatnonzero((self._methods == config.method) & (self.macs <= limit))
        if not len(may):
            raise ValueError(f"no configuration of method '{config.method}' is inside {limit:.3g}")
        away = np.sqrt(np.mean((self._places[may] - place) ** 2, axis=1))
        at = int(np.argmin(away))
        return int(may[at]), float(away[at])

    def answer(self, config: CompressionConfig, limit: float) -> tuple[float, NDArray[np.float64]]:
        """(multiply-accumulates, divergence of every image) of the most similar one recorded."""
        macs = float(cost(self.facts, config).macs)
        row = self.nearest(config, macs, limit)[0] if config.reductions else 0
        return float(self.macs[row]), self.kl[row].astype(float)

    def blind(self, images: range) -> float:
        """The divergence of guessing, or the worst seen where there are no classes."""
        worst = float(self.kl[:, list(images)].mean(axis=1).max())
        classes = self.facts.num_classes
        return min(worst, math.log(classes)) if classes else worst

    def inside(self, limit: float, images: range) -> list[tuple[float, float]]:
        """(share of the uncompressed cost, divergence) of all that costs no more than a limit."""
        rows = np.flatnonzero(self.macs <= limit)
        kl = self.kl[np.ix_(rows, list(images))].astype(float).mean(axis=1)
        shares = self.macs[rows] / self.whole
        return list(zip(shares.tolist(), kl.tolist(), strict=True))
