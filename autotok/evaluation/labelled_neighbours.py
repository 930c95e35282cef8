"""Top-1 of nearest labelled neighbours: how good the features of a model without a head are.

The protocol of Caron et al., "Emerging Properties in Self-Supervised Vision Transformers" (ICCV
2021, arXiv:2104.14294): the training images nearest by cosine vote for their classes, each with the
weight exp(cosine / temperature). The bank is what the *uncompressed* model makes of training
images, once for all candidates: a compressed model is asked whether its features still find their
class in an index that is there already.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from autotok.backbones.base import Backbone
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig
from autotok.errors import ConfigError, DataError

from .accuracy import Evaluator
from .data import DataSource
from .reference_answers import TEMPERATURE, Answer
from .tally import VOTERS, Tally, bits

BANK_PER_CLASS, LEAST_BANK = 20, 1000
"""Training images in the bank, stratified: so many of each class, and so many at least."""


class NeighbourEvaluator(Evaluator):
    """An `Evaluator` whose quality is 'knn_top1'."""

    def __init__(
        self,
        backbone: Backbone,
        data: DataSource,
        training: Callable[[], DataSource],
        *,
        seed: int = 0,
        precision: str = "float32",
    ) -> None:
        """`data` and what `training` loads have the data set's own labels (`load_data`).

        Raises:
            ConfigError: the model has a head, or the data no labels.
            DataError: there are no labelled training images, or fewer than vote.
        """
        if backbone.facts.num_classes:
            raise ConfigError(
                f"quality 'knn_top1' judges features, and backbone '{backbone.facts.name}' answers"
                f" in {backbone.facts.num_classes} classes; choose top1, or a model without a head"
            )
        super().__init__(backbone, data, metric="knn_top1", seed=seed, precision=precision)
        self._training = _labelled(data, training)
        classes = len(data.class_names or ())
        wanted = max(LEAST_BANK, BANK_PER_CLASS * classes)
        self.gallery_size, self._classes = len(self._training.subset(wanted, seed)), classes
        self._bank: tuple[Tensor, Tensor] | None = None

    def votes(self, features: Tensor) -> Tensor:
        """(B, classes) of features (B, C)."""
        assert self._bank is not None, "fill the gallery"
        bank, labels = self._bank
        near = (F.normalize(features, dim=-1) @ bank.T).topk(VOTERS, dim=-1)
        votes = features.new_zeros(len(features), self._classes)
        return votes.scatter_add_(1, labels[near.indices], (near.values / TEMPERATURE).exp())

    def _fill_gallery(self) -> None:
        if self._bank is not None:
            return
        whole = compress_backbone(self.backbone, CompressionConfig())
        features, labels = [], []
        for _, indices in self._batches(0, self.gallery_size, self._training):
            images, own = self._training.batch(indices)
            assert own is not None
            with self._halving():
                features.append(F.normalize(self._uncompressed(whole, images).output, dim=-1))
                labels.append(own)
        self._bank = torch.cat(features), torch.cat(labels)

    def _count(
        self, answer: Answer, labels: Tensor | None, first: int, images: Tensor, finetuned: bool
    ) -> Tally:
        assert labels is not None
        right = self.votes(answer.output).argmax(dim=-1) == labels
        tally = self._tally(len(right), correct=int(right.sum()), finetuned=finetuned)
        return dataclasses.replace(tally, hits=bits(right))


def _labelled(data: DataSource, training: Callable[[], DataSource]) -> DataSource:
    """The training images, whose labels mean what those of `data` mean."""
    if not data.labelled:
        raise ConfigError(
            f"quality 'knn_top1' needs labels, which data '{data.name}' has none of"
            f" ({data.labelling}); sort its images into class folders, or choose knn"
        )
    try:
        found = training()
    except DataError as error:
        raise DataError(
            "quality 'knn_top1' looks for neighbours among labelled training images, and there are"
            f" none ({str(error).partition(';')[0]}); put some beside the others, or choose knn"
        ) from error
    if found.class_names != data.class_names:
        raise DataError(
            f"quality 'knn_top1' needs training images of the classes of '{data.name}', and"
            f" those of '{found.name}' are not ({found.labelling}); give labelled ones of these"
        )
    if len(found) < VOTERS:
        raise DataError(
            f"training data '{found.name}' holds {len(found)} images, and {VOTERS} neighbours vote"
            f" in quality 'knn_top1'; give at least {VOTERS}, or choose knn"
        )
    return found
