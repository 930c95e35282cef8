"""Which parts of a ViT matter, found once for a run and kept in its directory as plain text."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from autotok.backbones.base import Backbone
from autotok.backbones.importance import Importance, importance_of
from autotok.backbones.pruning import pruned_facts, require_prunable
from autotok.documents import parse_json
from autotok.errors import ConfigError
from autotok.evaluation.data import DataSource
from autotok.export.weights import weights_identity
from autotok.files import write_text
from autotok.plain_data import typed
from autotok.searching.records.rundir import RANKING_FILE
from autotok.searching.space.pruned_structure import PrunedStructure

_LOG = logging.getLogger(__name__)
RANKED_ON = 128
"""Images that importance is averaged over."""
TOGETHER = 8
"""Images per pass: every gate of every image has a gradient."""


def pruned_structure(
    backbone: Backbone, data: DataSource, *, seed: int, folder: Path | None
) -> PrunedStructure:
    """The structures that pruning may leave of a backbone, ranked on the first images of `data`.

    Args:
        folder: The run directory, where the ranking is kept and found again; None keeps it nowhere.

    Raises:
        UnsupportedBackbone: nothing can be cut out of the backbone.
    """
    require_prunable(backbone)
    ranking = _ranking(backbone, data, seed, None if folder is None else folder / RANKING_FILE)
    return PrunedStructure.of(backbone.facts, ranking, lambda spec: pruned_facts(backbone, spec))


def _ranking(backbone: Backbone, data: DataSource, seed: int, path: Path | None) -> Importance:
    number = min(RANKED_ON, len(data))
    asked = f"{weights_identity(backbone)} {data.name} {len(data)} {number} {seed}"
    key = hashlib.sha256(asked.encode()).hexdigest()[:16]
    if path is not None and path.is_file():
        found = parse_json(path.read_text("utf-8"), str(path))
        if not isinstance(found, dict) or "of" not in found or "importance" not in found:
            raise ConfigError(f"'{path}' is no ranking of heads and units; delete it")
        if found["of"] == key:
            return typed(Importance, found["importance"], f"{path}: importance")
    _LOG.info("ranking heads, MLP units and blocks on %d images of %s", number, data.name)
    indices = data.subset(number, seed)

    def batches() -> Iterator[Tensor]:
        for start in range(0, len(indices), TOGETHER):
            yield data.batch(indices[start : start + TOGETHER])[0]

    ranking = importance_of(backbone, batches(), seed=seed)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"of": key, "importance": ranking.to_dict()}))
    return ranking
