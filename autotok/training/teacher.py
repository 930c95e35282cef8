"""Who teaches: the uncompressed model by default, or any other that knows the same classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotok.backbones.base import Backbone, evaluating
from autotok.backbones.loading import backbone_facts, check_file, check_name, load_backbone
from autotok.backbones.timm_classifier import (
    is_other_timm,
    nearest_timm,
    timm_classifier,
)
from autotok.backbones.timm_heads import label_names, named_classes
from autotok.compression.compress import compress_backbone
from autotok.compression.model import CompressedViT
from autotok.compression.tap_request import TapRequest
from autotok.config import CompressionConfig
from autotok.errors import CheckpointError, ConfigError, UnknownName, printable
from autotok.evaluation.accuracy import computing, default_batch_size
from autotok.evaluation.classes import contradict
from autotok.evaluation.data import DataSource
from autotok.evaluation.preprocessing import Preprocessing, preprocessing_of
from autotok.export.weights import weights_identity
from autotok.facts import BackboneFacts
from autotok.finetune_spec import FineTuneSpec
from autotok.tokens import Tokens

# the logits of 65,536 images over 1,000 classes
CACHE_BYTES = 256 * 2**20
GROUP = 16
"""Most images of one forward on a CPU: the batch of a fine-tune by default. One by one, products
are too small for the processor."""


@dataclass(frozen=True)
class Observed:
    """One forward: the output and what was watched on the way."""

    logits: Tensor  # (B, classes), float32
    tokens: Tokens
    watch: TapRequest


def observe(model: CompressedViT, images: Tensor, watch: TapRequest, *, trace: bool) -> Observed:
    """Run a model and keep what `watch` asks for."""
    tokens = model.forward_tokens(images, trace=trace, watch=watch)
    return Observed(model.backbone.readout(tokens).float(), tokens, watch)


class Teacher:
    """A frozen uncompressed model (held, not copied), and its logits per image, computed once.

    The logits of an image are a function of that image alone: on a CPU forwards have a number of
    images at which all places of the batch give the same bits. So a fine-tune gives the same
    weights whatever was remembered before it.
    """

    def __init__(self, backbone: Backbone, *, cache_bytes: int = CACHE_BYTES) -> None:
        self.backbone = backbone
        self._model = compress_backbone(backbone, CompressionConfig())
        self._remembers(cache_bytes, min(GROUP, default_batch_size(backbone.facts)))

    def _remembers(self, cache_bytes: int, group: int) -> None:
        self._most, self._groups = group, dict[tuple[str, torch.Size], int]()
        self._cache: dict[tuple[str, int], Tensor] = {}
        self._room = self._left = cache_bytes
        self._data: DataSource | None = None

    @property
    def facts(self) -> BackboneFacts:
        """Facts of the uncompressed model."""
        return self.backbone.facts

    def identity(self) -> str:
        """Short hash of its weights."""
        return weights_identity(self.backbone)

    @torch.no_grad()
    def observe(self, images: Tensor, watch: TapRequest, precision: str) -> Observed:
        """Output and features of images (B, C, H, W)."""
        with evaluating(self.backbone), computing(images.device, precision):
            return observe(self._model, images, watch, trace=False)

    def logits(self, images: Tensor, precision: str) -> Tensor:
        """(B, classes) float32, of images (B, C, H, W)."""
        return self.observe(images, TapRequest(), precision).logits

    def cached_logits(
        self, data: DataSource, indices: Sequence[int], images: Tensor, precision: str
    ) -> Tensor:
        """`logits` of unvaried images of a data source; remembered up to a number of bytes."""
        if self._data is not data:
            self._data, self._cache, self._left = data, {}, self._room
        missing = [i for i, index in enumerate(indices) if (precision, index) not in self._cache]
        size = len(missing)
        if missing and images.device.type == "cpu":
            size = self._group(images[missing[0]], precision)
        fresh: dict[int, Tensor] = {}
        for start in range(0, len(missing), max(1, size)):
            rows = missing[start : start + size]
            full = [*rows, *rows[:1] * (size - len(rows))]  # always as many
            fresh.update(zip(rows, self.logits(images[full], precision), strict=False))
        for row, value in fresh.items():
            self._remember((precision, indices[row]), value)
        known = [
            fresh[row] if row in fresh else self._cache[precision, index].to(images.device)
            for row, index in enumerate(indices)
        ]
        return torch.stack(known)

    def _group(self, image: Tensor, precision: str) -> int:
        """Images of a forward, as many as give one image the same bits in every place of it."""
        key = precision, image.shape
        while key not in self._groups:
            size = self._most
            found = self.logits(image.expand(size, *image.shape), precision)
            if size == 1 or bool((found == found[0]).all()):
                self._groups[key] = size
            else:
                self._most = size // 2
        return self._groups[key]

    def _remember(self, key: tuple[str, int], value: Tensor) -> None:
        if value.nbytes <= self._left and key not in self._cache:
            self._cache[key] = value.detach().cpu().clone()
            self._left -= value.nbytes


class OtherTeacher(Teacher):
    """Another model, whatever it is made of: its logits on images as it expects them.

    Images arrive as the student's model takes them. They are brought to the other mean, standard
    deviation, number of channels and size; what the student's crop left out stays out.
    """

    def __init__(self, model: nn.Module, *, expects: Preprocessing, given: Preprocessing) -> None:
        self._other, self._expects, self._given = model.eval(), expects, given
        self._remembers(CACHE_BYTES, GROUP)

    def identity(self) -> str:
        """Short hash of its weights."""
        return weights_identity(self._other)

    @torch.no_grad()
    def observe(self, images: Tensor, watch: TapRequest, precision: str) -> Observed:
        """Output of images (B, C, H, W); nothing inside can be watched."""
        with evaluating(self._other), computing(images.device, precision):
            logits: Tensor = self._other(self.fitted(images)).float()
        return Observed(logits, Tokens(images, 0, (0, 0)), TapRequest())

    def fitted(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) as the other model expects them; untouched where it is the same."""
        mine, theirs = self._given, self._expects
        if (mine.mean, mine.std) != (theirs.mean, theirs.std) or mine.channels != theirs.channels:
            images = images * _column(mine.std, images) + _column(mine.mean, images)
            if mine.channels < theirs.channels:
                images = images.expand(-1, theirs.channels, -1, -1)
            elif mine.channels > theirs.channels:
                images = images.mean(dim=1, keepdim=True)
            images = (images - _column(theirs.mean, images)) / _column(theirs.std, images)
        size = (theirs.height, theirs.width)
        if images.shape[-2:] != size:
            images = F.interpolate(images, size, mode="bicubic", antialias=True)
        return images


def _column(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, device=like.device).view(-1, 1, 1)


def check_teacher(spec: FineTuneSpec) -> None:
    """Raise for a teacher that is unknown, or whose weight file is not there; loads nothing."""
    if spec.teacher is None and spec.teacher_checkpoint is not None:
        raise ConfigError(
            f"teacher_checkpoint '{spec.teacher_checkpoint}' is given without a teacher; name the"
            " model whose weights these are"
        )
    if spec.teacher is not None and not is_other_timm(spec.teacher):
        try:
            check_name(spec.teacher)
        except UnknownName as error:
            hint = nearest_timm(spec.teacher)
            raise ConfigError(
                f"teacher '{spec.teacher}' is unknown;{hint} give any model of timm, or a backbone"
                " of `autotok backbones`"
            ) from error
    check_file(spec.teacher_checkpoint)


def check_teacher_classes(spec: FineTuneSpec, facts: BackboneFacts) -> None:
    """Raise `ConfigError` for a teacher whose own weights know another number of classes; none are
    fetched. Those of a file say it themselves, see `teacher_of`."""
    if spec.teacher is None or spec.teacher_checkpoint is not None:
        return
    if is_other_timm(spec.teacher):
        classes = named_classes(spec.teacher)
    else:
        with _as_teacher():
            classes = backbone_facts(spec.teacher).num_classes
    if classes is not None:
        _check_classes(spec.teacher, classes, facts)


def _check_classes(teacher: str, classes: int, facts: BackboneFacts) -> None:
    if classes != facts.num_classes:
        raise ConfigError(
            f"teacher '{teacher}' knows {classes} classes and backbone '{facts.name}'"
            f" {facts.num_classes}; give one of the same classes, or its weights for them as"
            " teacher_checkpoint"
        )


def _check_order(teacher: str, theirs: Sequence[str], backbone: Backbone) -> None:
    """Raise `ConfigError` where both name their classes, and most others or in another order."""
    own: Sequence[str] = getattr(backbone, "class_names", ())
    turned = sorted(own) == sorted(theirs) and list(own) != list(theirs)
    if own and theirs and (turned or contradict(theirs, own)):
        first = next(i for i, pair in enumerate(zip(own, theirs, strict=True)) if len({*pair}) > 1)
        raise ConfigError(
            f"class {first} is '{printable(theirs[first])}' to teacher '{teacher}' and"
            f" '{printable(own[first])}' to backbone '{backbone.facts.name}'; give a teacher of the"
            " same classes in the same order"
        )


@contextmanager
def _as_teacher() -> Iterator[None]:
    """Says of a teacher's weights by which option they are given."""
    try:
        yield
    except CheckpointError as error:
        text = str(error).replace("--checkpoint", "--teacher-checkpoint")
        raise CheckpointError(text) from error


def teacher_of(spec: FineTuneSpec, backbone: Backbone) -> Teacher:
    """The teacher that a spec names, on the backbone's device; the backbone where it names none.

    Raises:
        ConfigError: it is unknown, or knows other classes, or the same in another order.
        UnsupportedBackbone, CheckpointError: it, or its weights, cannot be had.
    """
    check_teacher(spec)
    if spec.teacher is None:
        return Teacher(backbone)
    file = None if spec.teacher_checkpoint is None else Path(spec.teacher_checkpoint)
    if is_other_timm(spec.teacher):
        model, classes, shape, how = timm_classifier(spec.teacher, checkpoint=file)
        expects, names = Preprocessing(*shape, **how), label_names(model, classes)
    else:
        with _as_teacher():
            other = load_backbone(spec.teacher, checkpoint=file)
        model, classes, expects = other, other.facts.num_classes, preprocessing_of(other)
        names = getattr(other, "class_names", ())
    _check_classes(spec.teacher, classes, backbone.facts)
    _check_order(spec.teacher, names, backbone)
    device = next(backbone.parameters()).device
    return OtherTeacher(model.to(device), expects=expects, given=preprocessing_of(backbone))
