"""How good a compressed model still is: top-1 by labels, agreement and KL without them.

`Evaluator` runs a model over positions [start, stop) of a seeded order and gives a `Tally` of sums;
tallies of disjoint positions add up, so a higher fidelity runs only the images that are new.

A headless model (features instead of logits) has no classes to agree on. Its logits are then
defined as the cosine similarity of its features to the *uncompressed* features of a fixed gallery,
the first images of the order, over a temperature of 0.07, the image itself left out. Agreement then
means: the same nearest neighbour in the gallery; the result says so. `knn` counts how many of the
nearest ten are the same, whatever the model, and `feature` compares what `autotok.dense` gives.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from autotok.backbones.base import Backbone, evaluating
from autotok.compression.activations import Activations, entered
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig
from autotok.errors import ConfigError, DataError, NonFiniteOutput
from autotok.facts import BackboneFacts
from autotok.metrics import QUALITIES
from autotok.names import known

from .data import DataSource
from .reference_answers import (
    Answer,
    ReferenceAnswers,
    answer_with_rows,
    cosines,
    divergences,
    gallery_size,
    shared_neighbours,
)
from .side_by_side import LoadedBatch, at_a_time, in_order, twins
from .tally import NEIGHBOURS, Quality, Tally, bits, rounded, with_costs
from .transfer import sent

__all__ = ["Evaluator", "Quality", "Tally", "computing", "default_batch_size"]

_EXACT = 2.0**36
"""Divergences are added in whole parts of this, so that their order makes no difference."""
ACCELERATOR_BATCH = 128
"""Images per forward that keep a large GPU busy with a ViT-S."""


class Evaluator:
    """Runs models over one data source and compares them with one uncompressed backbone.

    The backbone's own outputs are computed once per image, when first needed, and kept; a backbone
    whose weights change afterwards (fine-tuning in place) must be a copy.
    """

    def __init__(
        self,
        backbone: Backbone,
        data: DataSource,
        *,
        metric: str = "auto",
        seed: int = 0,
        batch_size: int | None = None,
        precision: str = "float32",
    ) -> None:
        """`metric` 'auto' is top1 where the data is labelled, else agreement; `batch_size` None
        chooses by tokens per image (`default_batch_size`); `precision` is what products run in,
        the backbone's own too (`evaluation.precision`)."""
        self.metric = _resolve_metric(metric, data)
        self.backbone = backbone
        self.data = data
        self.seed = seed
        self.precision = precision
        device = next(backbone.parameters()).device
        self.batch_size = batch_size or default_batch_size(backbone.facts, device)
        self.activations: Activations | None = None
        """What many candidates on the backbone start from; nothing is kept without."""
        self.compares = False
        """Whether top1 comes with agreement and divergence beside it; the uncompressed model then
        answers for every image too."""
        self.gallery_size = gallery_size(self.metric, backbone.facts, data)
        whole = compress_backbone(backbone, CompressionConfig())
        self.answers = ReferenceAnswers(partial(self._uncompressed, whole), self.gallery_size)
        """Of the uncompressed model."""

    @property
    def num_images(self) -> int:
        """Images there are: the highest useful `stop`."""
        return len(self.data)

    def evaluate(
        self,
        model: nn.Module,
        start: int,
        stop: int,
        *,
        finetuned: bool | None = None,
        on_images: Callable[[int], None] | None = None,
    ) -> Tally:
        """Sums over positions [start, stop) of the seeded order; fewer if the data ends before.

        Args:
            model: Gives logits (B, num_classes) of normalised images; with `image_costs` after each
                batch (`counting.adaptive.Metered`), these are kept.
            finetuned: Recorded; by default whether the model's configuration says 'retrain'.
            on_images: Called with the number of images done after every batch.

        Raises:
            NonFiniteOutput: the model gives NaN or infinity.
        """
        config: CompressionConfig | None = getattr(model, "config", None)
        config = config if isinstance(config, CompressionConfig) else None
        if finetuned is None:
            finetuned = config is not None and config.mode == "retrain"
        judged = "" if config is None else config.canonical
        self._fill_gallery()
        with evaluating(model):
            models = twins(model, self._threads(start, stop))
            judge = partial(self._judged, finetuned=finetuned)
            tally = self._summed(models, start, stop, judge, on_images)
        return dataclasses.replace(tally, finetuned=finetuned, judged=judged)

    def _threads(self, start: int, stop: int) -> int:
        batches = math.ceil((min(stop, len(self.data)) - start) / self.batch_size)
        return at_a_time(batches, next(self.backbone.parameters()).device)

    def _summed(
        self,
        models: Sequence[nn.Module],
        start: int,
        stop: int,
        judge: Callable[[nn.Module, LoadedBatch], Tally],
        on_images: Callable[[int], None] | None,
    ) -> Tally:
        """The tally of images [start, stop), of each batch by one of the models."""

        def judged(model: nn.Module, batch: LoadedBatch) -> Tally | None:
            found: Tally | None = None
            with self._halving():
                found = judge(model, batch)
            return found  # None: its halves come next

        tally = self._tally(0)
        batches = self._batches(start, stop)
        loaded = (LoadedBatch(first, own, *self.data.batch(own)) for first, own in batches)
        with closing(in_order(loaded, judged, models)) as tallies:
            for found in tallies:
                if found is not None:
                    tally = tally + found
                    if on_images is not None:
                        on_images(found.num_images)
        return tally

    def _judged(self, model: nn.Module, batch: LoadedBatch, *, finetuned: bool) -> Tally:
        """The tally of one batch."""
        first, indices, images, labels = batch
        answer = self._run(model, images, indices)
        if not bool(torch.isfinite(answer.output).all()):
            raise NonFiniteOutput(
                f"the compressed model gives NaN or infinity on image {indices[0]} of"
                f" '{self.data.name}'; this configuration cannot be used"
            )
        return with_costs(self._count(answer, labels, first, images, finetuned), model)

    def reference(
        self, start: int, stop: int, *, on_images: Callable[[int], None] | None = None
    ) -> Tally:
        """The uncompressed backbone's own tally, from the outputs that are kept.

        Called before a search, it also fills the cache and finds unreadable images early.
        """

        def judged(_: nn.Module, batch: LoadedBatch) -> Tally:
            answer = self._reference_of(batch.first, batch.images)
            return self._count(answer, batch.labels, batch.first, batch.images, False)

        self._fill_gallery()
        models = [self.backbone] * self._threads(start, stop)
        with evaluating(self.backbone):
            return self._summed(models, start, stop, judged, on_images)

    def _batches(
        self, start: int, stop: int, data: DataSource | None = None
    ) -> Iterator[tuple[int, list[int]]]:
        """(position of the first, indices) of every batch, of the images judged or other `data`;
        each is asked for when its turn comes, so that what was decoded to see whether it is
        readable is still in the cache, and again if the batch size was halved meanwhile."""
        first, data = start, data or self.data
        while first < stop:
            size = self.batch_size
            indices = data.subset(min(first + size, stop), self.seed)[first:]
            if not indices:
                return
            yield first, indices
            if self.batch_size >= size:
                first += size

    @contextmanager
    def _halving(self) -> Iterator[None]:
        """Around the work on a batch: where a GPU's memory ends, it comes again in halves."""
        try:
            yield
        except torch.OutOfMemoryError:
            if self.batch_size == 1:
                raise
            self.batch_size //= 2

    @torch.inference_mode()
    def _run(self, model: nn.Module, images: Tensor, indices: Sequence[int] = ()) -> Answer:
        parameter = next(self.backbone.parameters())
        images = sent(images, parameter.device, parameter.dtype)
        with (
            computing(parameter.device, self.precision),
            entered(model, images, indices, self.activations),
        ):
            if self.metric == "feature":
                return answer_with_rows(model, images)
            output: Tensor = model(images)
        return Answer(output.float().cpu())

    def _uncompressed(self, whole: nn.Module, images: Tensor) -> Answer:
        """What the uncompressed backbone gives."""
        with evaluating(whole):
            answer = self._run(whole, images)
        if not bool(torch.isfinite(answer.output).all()):
            raise DataError(
                f"the uncompressed backbone '{self.backbone.facts.name}' gives NaN or infinity on"
                f" '{self.data.name}'; check its weights and preprocessing"
            )
        return answer

    def reference_output(self, position: int) -> Tensor:
        """(classes,), the uncompressed backbone's for the image at a position of the order."""
        indices = self.data.subset(position + 1, self.seed)[position:]
        return self._reference_of(position, self.data.batch(indices)[0]).output[0]

    def _reference_of(self, first: int, images: Tensor) -> Answer:
        """The uncompressed backbone's answer at positions first, first + 1 ..."""
        return self.answers.of(first, images, rows=self.metric == "feature")

    def _count(
        self, answer: Answer, labels: Tensor | None, first: int, images: Tensor, finetuned: bool
    ) -> Tally:
        """The tally of one batch."""
        output, batch = answer.output, len(answer.output)
        right = None if labels is None else output.argmax(dim=-1) == labels
        correct = 0 if right is None else int(right.sum())
        num_labelled = 0 if labels is None else batch
        tally = self._tally(batch, num_labelled=num_labelled, correct=correct, finetuned=finetuned)
        if right is not None and self.metric in ("top1", "kl"):
            tally = dataclasses.replace(tally, hits=bits(right))
        if self.metric == "top1" and not self.compares:
            return tally
        own = self._reference_of(first, images)
        reference = own.output
        values: tuple[float, ...] = ()
        if self.metric == "feature":
            values = rounded(cosines(answer, own, self.backbone.facts))
        if self.gallery_size:
            near, theirs = (self.answers.similarity(x, first) for x in (output, reference))
            if self.metric == "knn":
                values = rounded(shared_neighbours(near, theirs, NEIGHBOURS))
            if not self.backbone.facts.num_classes:  # neighbours stand in for classes
                output, reference = near, theirs
        same = output.argmax(dim=-1) == reference.argmax(dim=-1)
        kl = divergences(output, reference)
        return dataclasses.replace(
            tally,
            num_compared=batch,
            agreeing=int(same.sum()),
            kl_sum=float((kl * _EXACT).round().sum() / _EXACT),
            kl_squares=float(kl.square().sum()),
            hits=bits(same) if self.metric == "agreement" else tally.hits,
            kls=rounded(kl.tolist()) if self.metric == "kl" else (),
            values=values,
        )

    def _tally(
        self,
        num_images: int,
        *,
        num_labelled: int = 0,
        correct: int = 0,
        finetuned: bool = False,
        judged: str = "",
    ) -> Tally:
        """A tally of this evaluator's metric, before anything is compared."""
        return Tally(
            self.metric,
            num_images,
            num_labelled,
            correct,
            finetuned=finetuned,
            gallery=self.gallery_size,
            judged=judged,
            precision=self.precision,
        )

    def _fill_gallery(self) -> None:
        """Have the features of the gallery, before several threads want them."""

        def features() -> list[Tensor]:
            found = []
            for first, indices in self._batches(0, self.gallery_size):
                with self._halving():
                    found.append(self._reference_of(first, self.data.batch(indices)[0]).output)
            return found

        self.answers.fill_gallery(features)


def computing(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """The context in which products run in a number format."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, getattr(torch, precision))


def default_batch_size(facts: BackboneFacts, device: torch.device | None = None) -> int:
    """Images per forward, on a CPU by default; on an accelerator many, halved where memory ends.

    On a CPU about 2,600 tokens: fewer leave it waiting for Python between operators, compressed
    models most of all, and more leave its caches (`benchmarks/evaluation.py --batches`).
    """
    if device is not None and device.type != "cpu":
        return ACCELERATOR_BATCH
    return max(1, min(32, 2600 // (facts.num_patches + facts.num_prefix)))


def _resolve_metric(metric: str, data: DataSource) -> str:
    known("metric", metric, QUALITIES)
    if metric == "auto":
        return "top1" if data.labelled else "agreement"
    if metric == "top1" and not data.labelled:
        raise ConfigError(
            f"metric 'top1' needs labels, which data '{data.name}' has none of that match the"
            f" model's classes ({data.labelling}); choose agreement or kl"
        )
    return metric
