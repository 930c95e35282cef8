"""`ShownImage`: one image as the model sees it, and as people do."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotok.backbones.base import Backbone
from autotok.errors import DataError, printable

from .data import DataSource, DemoData, load_data
from .folder import FolderData
from .preprocessing import Preprocessing, preprocessing_of

_NUMBERED = re.compile(r"(demo|digits)(?::(\d+))?")


@dataclass(frozen=True, eq=False)
class ShownImage:
    """An image, cropped and resized for a model."""

    name: str
    tensor: Tensor
    """(C, H, W) float32, normalised."""
    pixels: NDArray[np.float32]
    """(H, W, 3) in [0, 1]."""
    label: str = ""
    """Its class, where that is one of the model's."""
    digit: NDArray[np.bool_] | None = None
    """(N0,): patches that the demo's whole digit touches."""


def shown_image(name: str, backbone: Backbone) -> ShownImage:
    """The image called `name`: a file, or 'demo:N' or 'digits:N', an image of a built-in set.

    Raises:
        DataError: there is none, or it cannot be read.
    """
    numbered, preprocessing = _NUMBERED.fullmatch(name), preprocessing_of(backbone)
    if numbered is not None:
        source, number = load_data(numbered[1], backbone), int(numbered[2] or 0)
        if number >= len(source):
            raise DataError(
                f"image '{name}' is not there: '{numbered[1]}' has images 0 to {len(source) - 1}"
            )
        return shown_of(source, number, backbone)
    path = Path(name).expanduser()
    check_image(name)
    pixels = preprocessing.decoded(path)
    tensor = preprocessing.normalise(pixels[None])[0]
    return ShownImage(printable(path.name), tensor, _visible(tensor, preprocessing))


def check_image(name: str) -> None:
    """Raise `DataError` where `name` is neither a file nor an image of a built-in set."""
    if _NUMBERED.fullmatch(name) is None and not Path(name).expanduser().is_file():
        what = "is a folder" if Path(name).expanduser().is_dir() else "is no file"
        raise DataError(
            f"image '{name}' {what}; give an image file, or demo:N or digits:N for image N of a"
            " built-in set"
        )


def shown_of(source: DataSource, index: int, backbone: Backbone) -> ShownImage:
    """Image `index` of a data set."""
    images, labels = source.batch([index])
    names, label = source.class_names, ""
    if labels is not None:
        number = int(labels[0])
        label = names[number] if names is not None else str(number)
    digit = None
    if isinstance(source, DemoData):
        digit = source.digit_patches(index, backbone.facts.grid)
    visible = _visible(images[0], preprocessing_of(backbone))
    called = f"{source.name} {index}"
    if isinstance(source, FolderData):
        called = printable(source.path(index).name)
    return ShownImage(called, images[0], visible, label, digit)


def _visible(tensor: Tensor, preprocessing: Preprocessing) -> NDArray[np.float32]:
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    pixels = (tensor * std + mean).clamp(0.0, 1.0).expand(3, -1, -1)
    found: NDArray[np.float32] = pixels.permute(1, 2, 0).numpy()
    return found
