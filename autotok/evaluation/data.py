"""Evaluation data by name: the built-in demo, digits, CIFAR-10, or any image folder."""

from __future__ import annotations

import dataclasses
import importlib
import warnings
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from autotok.backbones.base import Backbone
from autotok.backbones.torchvision_shim import ensure_torchvision
from autotok.errors import DataError
from autotok.names import is_named

from .classes import contradict
from .demo import CANVAS, CLASS_NAMES, MEAN, NUM_VALIDATION_SOURCES, STD, DemoDigits
from .folder import FolderData, PixelCache
from .layout import Layout, require_folder
from .order import nested_order
from .preprocessing import Preprocessing, preprocessing_of

DEMO_SIZES = {"train": 50_000, "val": 2_000}


class DataSource(Protocol):
    """Images to judge a model on."""

    @property
    def name(self) -> str:
        """As records and reports write it."""

    @property
    def labelled(self) -> bool:
        """Whether `batch` gives labels that mean the model's classes."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """One name per class, or None where label-free."""

    @property
    def labelling(self) -> str:
        """How labels were understood, or why there are none, in words."""

    def __len__(self) -> int:
        """Number of images, those included that turn out to be unreadable: always the same."""

    def subset(self, count: int, seed: int) -> list[int]:
        """`count` indices, seeded and stratified, fewer where no more can be read; a larger subset
        starts with the smaller one."""

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Images (B, C, H, W) float32, normalised, and labels (B,) int64 or None."""


class ArrayData:
    """Images that are already in memory, as 8-bit arrays."""

    def __init__(
        self,
        name: str,
        images: NDArray[np.uint8],
        labels: Sequence[int] | None,
        preprocessing: Preprocessing,
        class_names: tuple[str, ...] | None = None,
    ) -> None:
        """`images` is (N, H, W) grey or (N, H, W, 3); they are resized when first used."""
        self.name = name
        self.class_names = class_names if labels is not None else None
        self._images = images
        self._labels = None if labels is None else [int(label) for label in labels]
        self._preprocessing = preprocessing
        self.labelling = _own_classes(name, labels is not None, class_names)
        classes = len(images) if self._labels is None else self._labels
        self._order = cache(partial(nested_order, classes))
        self._cache = PixelCache()

    @property
    def labelled(self) -> bool:
        """Whether `batch` gives labels."""
        return self._labels is not None

    def __len__(self) -> int:
        return len(self._images)

    def subset(self, count: int, seed: int) -> list[int]:
        """The first `count` images of the seeded, stratified order."""
        return self._order(seed)[:count]

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Images (B, C, H, W) float32, normalised, and labels (B,) int64 or None."""
        images = self._preprocessing.normalise(torch.stack([self._pixels(i) for i in indices]))
        if self._labels is None:
            return images, None
        return images, torch.tensor([self._labels[i] for i in indices], dtype=torch.int64)

    def _pixels(self, index: int) -> Tensor:
        pixels = self._cache.get(index)
        if pixels is None:
            pixels = self._preprocessing.pixels(Image.fromarray(self._images[index]))
            self._cache.put(index, pixels)
        return pixels


class DemoData:
    """Cluttered digits, drawn when first used; fitted to models of another image shape."""

    name = "demo"

    def __init__(self, backbone: Backbone, split: str, *, own_labels: bool = False) -> None:
        self._digits = DemoDigits(split, DEMO_SIZES[split])
        self.labelled = own_labels or _fits(backbone, CLASS_NAMES)
        self.class_names = CLASS_NAMES if self.labelled else None
        self.labelling = _own_classes(self.name, self.labelled, CLASS_NAMES)
        self._fitted = backbone.own_facts.image_shape != (1, CANVAS, CANVAS)
        self._preprocessing = _whole(backbone)
        labels = [self._digits.label(i) for i in range(len(self._digits))]
        self._order = cache(partial(nested_order, labels))
        self._cache = PixelCache()

    def __len__(self) -> int:
        return len(self._digits)

    def subset(self, count: int, seed: int) -> list[int]:
        """The first `count` images of the seeded, stratified order."""
        return self._order(seed)[:count]

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Images (B, C, H, W) float32, normalised, and labels (B,) int64 or None."""
        images = torch.stack([self._image(i) for i in indices])
        if not self.labelled:
            return images, None
        return images, torch.tensor([self._digits.label(i) for i in indices], dtype=torch.int64)

    def digit_patches(self, index: int, grid: tuple[int, int]) -> NDArray[np.bool_]:
        """(N0,): patches of a grid over the canvas that the whole digit touches."""
        box, found = self._digits.digit_box(index), np.zeros(grid, dtype=bool)
        rows, columns = (
            slice(start * cells // CANVAS, -(-(start + box.side) * cells // CANVAS))
            for start, cells in zip((box.top, box.left), grid, strict=True)
        )
        found[rows, columns] = True
        return found.reshape(-1)

    def _image(self, index: int) -> Tensor:
        image = self._cache.get(index)
        if image is None:
            image = self._digits[index][0]
            if self._fitted:
                grey = ((image[0] * STD + MEAN).clamp(0, 1) * 255).round().to(torch.uint8)
                pixels = self._preprocessing.pixels(Image.fromarray(grey.numpy()))
                image = self._preprocessing.normalise(pixels[None])[0]
            self._cache.put(index, image)
        return image


def load_data(
    spec: str | Path,
    backbone: Backbone,
    *,
    split: str = "val",
    train_data: str | Path | None = None,
    class_names: str | Path | None = None,
    own_labels: bool = False,
) -> DataSource:
    """The data called `spec`, prepared for a backbone.

    Args:
        spec: 'demo', 'digits', 'cifar10', 'cifar10:FOLDER', or the path of an image folder
            ('./demo' is a folder).
        split: 'val' or 'train'.
        train_data: What the training split is taken from instead, likewise; its classes are then
            the data set's.
        class_names: File with the model's class names in order, for image folders.
        own_labels: Take the data set's classes, whatever the model's are.

    Raises:
        DataError: unknown, missing, empty or unreadable, or class names that do not fit; the first
            image is decoded to find out.
    """
    if split not in ("val", "train"):
        raise DataError(f"split '{split}' is unknown; known: train, val")
    check_data(spec, train_data, class_names)
    if own_labels and class_names is not None:
        raise DataError(
            f"class names '{class_names}' are the model's, and here the labels are those of data"
            f" '{spec}' itself; leave them out"
        )
    chosen = str(train_data if train_data is not None and split == "train" else spec)
    source: DataSource
    if chosen == "demo":
        source = DemoData(backbone, split, own_labels=own_labels)
    elif chosen == "digits":
        source = _digits(backbone, split, own_labels)
    elif is_named(chosen):
        source = _cifar10(_cifar10_folder(chosen), backbone, split, own_labels)
    else:
        source = FolderData(
            Path(chosen).expanduser(),
            preprocessing_of(backbone),
            None if own_labels else backbone.facts.num_classes,
            split=split,
            layout=Layout.of(_folder(spec), _folder(train_data)),
            class_names=None if class_names is None else Path(class_names).expanduser(),
            own_names=getattr(backbone, "class_names", ()),
        )
    source.batch(source.subset(1, seed=0))
    return source


def told_of(data: DataSource, backbone: Backbone) -> tuple[str, ...]:
    """What is said of images before any is looked at: how labels were understood, and how images
    are prepared where the name alone decides that, beside a file of weights."""
    if not backbone.from_file or backbone.prepared is not None or not isinstance(data, FolderData):
        return (data.labelling,)
    how = preprocessing_of(backbone)
    mean, std = (" ".join(f"{value:.4g}" for value in values) for values in (how.mean, how.std))
    return (
        data.labelling,
        f"images: prepared as '{backbone.own_facts.name}' says, not the file: mean {mean}, std"
        f" {std}, {how.interpolation}, crop {how.crop_pct:.4g}",
    )


def check_data(
    data: str | Path | None,
    train_data: str | Path | None = None,
    class_names: str | Path | None = None,
) -> None:
    """Raise `DataError` unless what is named is there; nothing is loaded. Without any data, class
    names are for themselves."""
    folders = [folder for folder in map(_folder, (data, train_data)) if folder is not None]
    for folder in folders:
        require_folder(folder)
    if class_names is None:
        return
    if not folders and data is not None:
        raise DataError(f"data '{data}' has its own classes; class names are for image folders")
    if not Path(class_names).expanduser().is_file():
        raise DataError(f"class names '{class_names}' are no file; give one with a name a line")


def _folder(spec: str | Path | None) -> Path | None:
    return None if spec is None or is_named(str(spec)) else Path(spec).expanduser()


def _cifar10_folder(spec: str) -> Path:
    return Path(spec.partition(":")[2] or "~/.cache/autotok/cifar10").expanduser()


def _own_classes(name: str, labelled: bool, classes: Sequence[str] | None) -> str:
    """How the labels of a built-in set were understood."""
    count = len(classes or ())
    if labelled:
        return f"labels: the {count} classes of '{name}'"
    return f"label-free: '{name}' has {count} classes, the model another number or other ones"


def _fits(backbone: Backbone, classes: Sequence[str]) -> bool:
    """Whether a built-in set's classes are the model's, as far as can be known."""
    own = getattr(backbone, "class_names", ())
    return backbone.facts.num_classes == len(classes) and not contradict(own, classes)


def _digits(backbone: Backbone, split: str, own_labels: bool) -> ArrayData:
    """scikit-learn's 1,797 handwritten digits, filling the image; split by scan as the demo is."""
    from sklearn.datasets import load_digits

    data: Any = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    chosen = order[:NUM_VALIDATION_SOURCES] if split == "val" else order[NUM_VALIDATION_SOURCES:]
    images = np.round(data.images[chosen] * (255 / 16)).astype(np.uint8)
    fits = own_labels or _fits(backbone, CLASS_NAMES)
    labels = data.target[chosen].tolist() if fits else None
    return ArrayData("digits", images, labels, _whole(backbone), CLASS_NAMES)


def _cifar10(folder: Path, backbone: Backbone, split: str, own_labels: bool) -> ArrayData:
    """torchvision's CIFAR-10 (checksummed), downloaded to `folder` if it is not there."""
    if ensure_torchvision() == "missing":
        raise DataError("data 'cifar10' needs torchvision; install it: pip install torchvision")
    datasets: Any = importlib.import_module("torchvision.datasets")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the arrays were written by an old NumPy
        try:
            data = datasets.CIFAR10(str(folder), train=split == "train", download=False)
        except (RuntimeError, OSError):
            data = _download(datasets, folder, split)
    fits = own_labels or _fits(backbone, data.classes)
    labels = list(data.targets) if fits else None
    return ArrayData("cifar10", data.data, labels, _whole(backbone), tuple(data.classes))


def _download(datasets: Any, folder: Path, split: str) -> Any:
    try:
        return datasets.CIFAR10(str(folder), train=split == "train", download=True)
    except Exception as error:  # torchvision raises many types: offline, checksum, disk full
        reason = str(error).strip().splitlines()[0][:100] if str(error).strip() else ""
        raise DataError(
            f"data 'cifar10' is not in '{folder}' and cannot be downloaded ({type(error).__name__}:"
            f" {reason}); download cifar-10-python.tar.gz yourself and give its folder as"
            " 'cifar10:FOLDER'"
        ) from error


def _whole(backbone: Backbone) -> Preprocessing:
    """The backbone's preprocessing without cropping: these images are all subject, no margin."""
    return dataclasses.replace(preprocessing_of(backbone), crop_pct=1.0, resize=None)
