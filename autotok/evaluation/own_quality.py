"""A quality of the user's own: a function that says how good a model is on images.

It is called as `function(model, batch)` with a compressed model (or the uncompressed backbone), in
evaluation mode, and a `LoadedBatch`: `images` (B, C, H, W), normalised, on the model's device,
`labels` (B,) or None, `indices` of the images in the data. It gives one finite number per image;
one number alone means that it wants images one by one. The quality is the mean over the images, so
that fidelities add up and two configurations are compared image by image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from autotok.backbones.base import Backbone, evaluating
from autotok.compression.model import CompressedViT
from autotok.errors import ConfigError, failure
from autotok.names import from_module, text_of

from .accuracy import Evaluator, computing
from .data import DataSource
from .labelled_neighbours import NeighbourEvaluator
from .side_by_side import LoadedBatch
from .tally import Tally, rounded, with_costs
from .transfer import sent

OwnFunction = Callable[[Any, LoadedBatch], object]
_REHEARSED = 2


@dataclass(frozen=True)
class OwnQuality:
    """A function and what errors and records call it."""

    name: str
    function: OwnFunction

    @classmethod
    def of(cls, asked: object) -> OwnQuality:
        """Of a function, or of `module:function`.

        Raises:
            ConfigError: it is or means none.
        """
        name = text_of(asked)
        if isinstance(asked, str):
            return cls(name, _imported(asked))
        if not callable(asked):
            raise ConfigError(
                f"evaluator is {asked!r}; give a function of a model and a batch of images, or"
                " module:function"
            )
        return cls(name, asked)


def make_evaluator(
    backbone: Backbone,
    data: DataSource,
    *,
    metric: str,
    seed: int,
    precision: str,
    own: OwnQuality | None,
    training: Callable[[], DataSource],
) -> Evaluator:
    """What judges: by a metric, or by a quality of the user's own; `training` loads the training
    images, with labels of their own, which knn_top1 alone asks for."""
    if metric == "knn_top1":
        return NeighbourEvaluator(backbone, data, training, seed=seed, precision=precision)
    if own is None:
        return Evaluator(backbone, data, metric=metric, seed=seed, precision=precision)
    return OwnEvaluator(backbone, data, own, metric=metric, seed=seed, precision=precision)


class OwnEvaluator(Evaluator):
    """An `Evaluator` whose quality, 'own' or 'own_loss', is what a function says."""

    def __init__(
        self,
        backbone: Backbone,
        data: DataSource,
        own: OwnQuality,
        *,
        metric: str = "own",
        seed: int = 0,
        precision: str = "float32",
    ) -> None:
        """It is tried on the first images.

        Raises:
            ConfigError: it says nothing of use of the uncompressed model on them.
        """
        super().__init__(backbone, data, metric=metric, seed=seed, precision=precision)
        self._own = own
        self._singly = False
        """Whether it turned out to want images one by one."""
        self.reference(0, _REHEARSED)

    def reference(
        self, start: int, stop: int, *, on_images: Callable[[int], None] | None = None
    ) -> Tally:
        return self.evaluate(self.backbone, start, stop, finetuned=False, on_images=on_images)

    def _threads(self, start: int, stop: int) -> int:
        return 1  # nobody said that the function may run twice at a time

    def _judged(self, model: nn.Module, batch: LoadedBatch, *, finetuned: bool) -> Tally:
        tally = self._tally(len(batch.indices), finetuned=finetuned)
        tally = tally.having(rounded(self._values(model, batch)))
        if hasattr(model, "image_costs"):
            self._run(model, batch.images, batch.indices)  # the function runs what it likes
        return with_costs(tally, model)

    @torch.inference_mode()
    def _values(self, model: nn.Module, batch: LoadedBatch) -> list[float]:
        """One number per image."""
        like = next(self.backbone.parameters())
        batch = batch._replace(images=sent(batch.images, like.device, like.dtype))
        parts = [part for part in model.modules() if isinstance(part, CompressedViT)]
        seen = parts[0] if len(parts) == 1 else model  # what counts its cost is not shown
        with computing(like.device, self.precision):
            if not self._singly:
                found = self._asked(seen, batch)
                if len(found) == len(batch.indices):
                    return found
                self._singly = len(found) == 1
            if not self._singly:
                raise self._unusable(
                    f"it gives {len(found)} numbers for {len(batch.indices)} images; it must give"
                    " one per image, or one"
                )
            return [self._asked(seen, one)[0] for one in _single(batch)]

    def _asked(self, model: nn.Module, batch: LoadedBatch) -> list[float]:
        """What the function says, checked to be finite numbers."""
        try:
            with evaluating(model):
                said = self._own.function(model, batch)
        except torch.OutOfMemoryError:  # no fault of the function: the batch comes again in halves
            raise
        except Exception as error:  # it may be anybody's
            raise self._unusable(f"it fails on {self._where(batch)}: {failure(error)}") from error
        try:
            numbers = said.detach().cpu().tolist() if isinstance(said, torch.Tensor) else said
            found = [float(x) for x in np.asarray(numbers, dtype=np.float64).reshape(-1)]
        except (TypeError, ValueError):
            found = []
        if said is None or not found:
            raise self._unusable(
                f"it gives a {type(said).__name__} on {self._where(batch)}; it must give a number"
                " per image, or one"
            )
        if not all(map(math.isfinite, found)):
            raise self._unusable(
                f"it gives {next(x for x in found if not math.isfinite(x))} on"
                f" {self._where(batch)}; it must give finite numbers"
            )
        return found

    def _where(self, batch: LoadedBatch) -> str:
        return f"image {batch.indices[0]} of '{self.data.name}'"

    def _unusable(self, reason: str) -> ConfigError:
        return ConfigError(f"evaluator '{self._own.name}' cannot be used: {reason}")


def _imported(text: str) -> OwnFunction:
    """The function that `module:function` means.

    Raises:
        ConfigError: it means none.
    """
    if text.startswith("<"):
        raise ConfigError(
            f"evaluator '{text}' was a Python object, which no other process can find again; put it"
            " into a module and give module:function, or resume from Python with evaluator=..."
        )
    unusable = f"evaluator '{text}' cannot be used: "
    if not all(text.partition(":")):
        raise ConfigError(f"{unusable}give it as module:function, such as my_quality:miou")
    try:
        found = from_module(text)
    except Exception as error:  # importing runs somebody's module
        raise ConfigError(
            f"{unusable}{failure(error)}; is it installed, or in a folder of PYTHONPATH?"
        ) from error
    if not callable(found):
        raise ConfigError(f"{unusable}it is no function; give one of a model and a batch of images")
    return found


def _single(batch: LoadedBatch) -> list[LoadedBatch]:
    """Batches of one image."""
    return [
        LoadedBatch(
            batch.first + i,
            [index],
            batch.images[i : i + 1],
            None if batch.labels is None else batch.labels[i : i + 1],
        )
        for i, index in enumerate(batch.indices)
    ]
