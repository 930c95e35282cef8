"""The uncompressed model's own answers, kept for all candidates, and the gallery among them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotok.backbones.base import Backbone
from autotok.compression.dense import dense_rows
from autotok.errors import ConfigError, DataError
from autotok.facts import BackboneFacts

from .data import DataSource
from .shared_tensors import SharedTensors
from .tally import NEIGHBOURS

GALLERY_SIZE = 128
TEMPERATURE = 0.07
LIMIT_BYTES = 2**29
"""Of features of patches that are kept; those of further images are computed again."""


class Answer(NamedTuple):
    """What a model gives for a batch, float32 on the host."""

    output: Tensor
    """(B, classes)."""
    rows: Tensor | None = None
    """(B, P + N0, C), features of all tokens that the image had, where they are compared."""


class ReferenceAnswers:
    """Answers of the uncompressed model by position in the order."""

    def __init__(self, run: Callable[[Tensor], Answer], gallery_size: int) -> None:
        """`run` answers for images; the first `gallery_size` of the order are the gallery."""
        self._run, self.gallery_size = run, gallery_size
        self.outputs: dict[int, Tensor] = {}
        self.shared: SharedTensors | None = None
        """What other processes have worked out, by position."""
        self._rows: dict[int, Tensor] = {}
        self._bytes = 0
        self._gallery: Tensor | None = None

    def of(self, first: int, images: Tensor, *, rows: bool = False) -> Answer:
        """The answer for images at positions first, first + 1 ...; `rows` asks for those too."""
        positions = range(first, first + len(images))
        held = self._rows if rows else self.outputs
        fresh = None
        if not rows:
            self._look_up(positions)
        if any(p not in held or p not in self.outputs for p in positions):
            fresh = self._run(images)
            self._keep(positions, fresh.output)
            if fresh.rows is not None and self._bytes + fresh.rows.nbytes <= LIMIT_BYTES:
                self._rows.update(zip(positions, fresh.rows, strict=True))
                self._bytes += fresh.rows.nbytes
        if rows and fresh is not None:
            return fresh
        found = [self._rows[p] for p in positions] if rows else []
        output = torch.stack([self.outputs[p] for p in positions])
        return Answer(output, torch.stack(found) if rows else None)

    def _look_up(self, positions: range) -> None:
        """Take over what other processes have left."""
        if self.shared is None:
            return
        for position in positions:
            found = None if position in self.outputs else self.shared.get(position)
            if found is not None:
                self.outputs[position] = found

    def _keep(self, positions: range, outputs: Tensor) -> None:
        self.outputs.update(zip(positions, outputs, strict=True))
        if self.shared is not None:
            for position, output in zip(positions, outputs, strict=True):
                self.shared.put(position, output)

    def fill_gallery(self, features: Callable[[], list[Tensor]]) -> None:
        """Have the gallery, of (n, C) features that are asked for only once."""
        if self.gallery_size and self._gallery is None:
            self._gallery = F.normalize(torch.cat(features()), dim=-1)

    def similarity(self, output: Tensor, first: int) -> Tensor:
        """(B, gallery) cosine similarity over the temperature; -inf for the image itself."""
        assert self._gallery is not None, "fill the gallery"
        logits = F.normalize(output, dim=-1) @ self._gallery.T / TEMPERATURE
        for row, position in enumerate(range(first, first + len(output))):
            if position < self.gallery_size:
                logits[row, position] = -math.inf
        return logits


def gallery_size(metric: str, facts: BackboneFacts, data: DataSource) -> int:
    """Images that stand in for classes, where the metric wants some.

    Raises:
        DataError: there are too few.
    """
    if metric != "knn" and (facts.num_classes > 0 or metric in ("top1", "knn_top1")):
        return 0
    size, least = min(GALLERY_SIZE, len(data)), 3 * NEIGHBOURS if metric == "knn" else 3
    if size < least:
        what = "neighbours" if metric == "knn" else "the features of a model without a head"
        raise DataError(
            f"data '{data.name}' holds {len(data)} images, too few to compare {what}; give at"
            f" least {least}"
        )
    return size


def answer_with_rows(model: nn.Module, images: Tensor) -> Answer:
    """The answer of a model whose tokens can be seen, `CompressedViT` or `Metered`.

    Raises:
        ConfigError: they cannot.
    """
    run = getattr(model, "forward_tokens", None)
    if run is None:
        raise ConfigError(
            "quality 'feature' compares features inside the model, which an exported file does not"
            " give; judge files by agreement, kl or knn"
        )
    backbone, tokens = cast(Backbone, model.backbone), run(images, trace=True)
    output, rows = backbone.readout(tokens), dense_rows(backbone, tokens)
    return Answer(output.float().cpu(), rows.float().cpu())


# --- values of single images, of which a quality is the mean


def cosines(answer: Answer, reference: Answer, facts: BackboneFacts) -> list[float]:
    """(B,) percent: mean cosine of the patches' features with the reference's; where the model's
    output is made of the class token, half of it is that token's."""
    assert answer.rows is not None
    assert reference.rows is not None
    found = F.cosine_similarity(answer.rows.double(), reference.rows.double(), dim=-1)
    mean = found[:, facts.num_prefix :].mean(dim=1)
    if facts.pooling.startswith("cls"):
        mean = (mean + found[:, 0]) / 2
    return (100.0 * mean).tolist()


def shared_neighbours(similarity: Tensor, reference: Tensor, count: int) -> list[float]:
    """(B,) percent of the `count` nearest of the gallery (B, gallery) that two have in common."""
    near, own = (x.topk(count, dim=-1).indices for x in (similarity, reference))
    both = (near.unsqueeze(2) == own.unsqueeze(1)).any(dim=2)
    return (100.0 * both.double().mean(dim=1)).tolist()


def divergences(output: Tensor, reference: Tensor) -> Tensor:
    """(B,) KL divergence of classes (B, classes) from the reference's; -inf takes no part."""
    log_p, log_q = (x.double().log_softmax(dim=-1) for x in (reference, output))
    terms = torch.where(log_p.isinf(), 0.0, log_p.exp() * (log_p - log_q))
    return terms.sum(dim=-1)
