"""From an image file to the model's input: Pillow and torch only, equal to timm's own transform.

Pixels stay 8-bit until they are needed (`pixels`), so that they can be cached in a fifth of the
space; `normalise` turns a batch of them into the model's input.
"""

from __future__ import annotations

import logging
import math
import os
import stat
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from autotok.backbones.base import Backbone
from autotok.errors import ConfigError, DataError

from .demo import MEAN, STD
from .depth import GUESSED, eight_bit, is_deep_colour, is_white_zero, stated_top

logger = logging.getLogger(__name__)
# 300 MB as RGB: a file of a few kB may claim any size
MAX_PIXELS = 100_000_000
MAX_RESIZED_PIXELS = 50_000_000
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM", "TIFF", "GIF")
"""Readers of the suffixes that are looked at; Pillow's others, some of which start programs, are
not for images of unknown origin."""
# of ImageNet's training images, as torchvision and timm have them
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_RESAMPLING = {kind.name.lower(): kind for kind in Image.Resampling}


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes (channels, height, width); the field names are timm's."""

    channels: int
    height: int
    width: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bicubic"
    crop_pct: float = 0.875
    crop_mode: str = "center"
    resize: tuple[int, int] | None = None
    """(height, width) before the crop, pixels; None is what `crop_pct` leaves of the output's."""
    crop_rounding: str = "nearest"
    """Where the crop lies between two pixels: 'nearest' to it, of two the even one, as timm and
    torchvision have it, or 'down', as transformers has it."""

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = tuple(float(v) for v in getattr(self, name))
            if len(values) != self.channels:
                values = (sum(values) / len(values),) * self.channels
            object.__setattr__(self, name, values)
        if self.channels not in (1, 3):
            raise ConfigError(
                f"a model of {self.channels} image channels cannot read image files; 1 or 3 can"
            )
        if self.interpolation not in _RESAMPLING:
            known = ", ".join(_RESAMPLING)
            raise ConfigError(f"interpolation '{self.interpolation}' is unknown; known: {known}")
        if self.crop_mode not in ("center", "squash", "border"):
            raise ConfigError(
                f"crop_mode '{self.crop_mode}' is unknown; known: center, squash, border"
            )
        if self.crop_rounding not in ("nearest", "down"):
            raise ConfigError(
                f"crop_rounding '{self.crop_rounding}' is unknown; known: nearest, down"
            )
        if self.resize is not None:
            height, width = (int(side) for side in self.resize)
            if height < self.height or width < self.width:
                raise ConfigError(
                    f"resize {height} x {width} is less than the {self.height} x {self.width}"
                    " pixels that are cropped from it; give at least these, or leave it out"
                )
            object.__setattr__(self, "resize", (height, width))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as bundles carry it."""
        return {
            "image_shape": [self.channels, self.height, self.width],
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": self.interpolation,
            "crop_pct": self.crop_pct,
            "crop_mode": self.crop_mode,
            **({} if self.resize is None else {"resize": list(self.resize)}),
            **({} if self.crop_rounding == "nearest" else {"crop_rounding": self.crop_rounding}),
        }

    @property
    def before_crop(self) -> tuple[int, int]:
        """(height, width) that images are resized to, as `crop_mode` means it, in pixels."""
        share = self.crop_pct  # rounded down as timm does
        return self.resize or (math.floor(self.height / share), math.floor(self.width / share))

    def pixels(self, image: Image.Image) -> Tensor:
        """(channels, height, width) uint8: resized so that `crop_pct` is left, then cropped.

        Raises:
            DataError: its sides differ so much that resizing would give over 50 million pixels.
        """
        size = self._resized(*image.size)
        if size[0] * size[1] > MAX_RESIZED_PIXELS:
            raise DataError(
                f"{image.width} x {image.height} pixels would be {size[0]} x {size[1]} when resized"
                f" for the model, of {MAX_RESIZED_PIXELS / 1e6:.0f} million pixels allowed"
            )
        mode = "L" if self.channels == 1 else "RGB"
        image = eight_bit(image)
        image = image if image.mode == mode else image.convert(mode)
        image = image.resize(size, _RESAMPLING[self.interpolation])
        fill = tuple(round(255 * v) for v in self.mean) if self.crop_mode == "border" else (0,)
        fill = fill * (self.channels // len(fill))
        image = _centre(image, self.width, self.height, fill, down=self.crop_rounding == "down")
        array = np.array(image, dtype=np.uint8).reshape(self.height, self.width, self.channels)
        return torch.from_numpy(array).permute(2, 0, 1).contiguous()

    def decoded(self, path: Path) -> Tensor:
        """(channels, height, width) uint8 of an image file; depends on nothing else.

        Raises:
            DataError: see `read_image` and `pixels`; the message names the file.
        """
        return self.decoded_with_range(path)[0]

    def decoded_with_range(self, path: Path) -> tuple[Tensor, tuple[float, float] | None]:
        """As `decoded`, and what became 0 and 255; None where nothing was scaled, or the file says
        it."""
        image = read_image(path)
        try:
            return self.pixels(image), image.info.get(GUESSED)
        except DataError as error:
            raise DataError(
                f"image '{path}' cannot be used: {error}; crop it or take it out of the folder"
            ) from error

    def normalise(self, pixels: Tensor) -> Tensor:
        """(B, C, H, W) float32 of uint8 pixels (B, C, H, W)."""
        mean = torch.tensor(self.mean).view(1, -1, 1, 1)
        std = torch.tensor(self.std).view(1, -1, 1, 1)
        return (pixels.to(torch.float32) / 255 - mean) / std

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """Size (width, height) before the crop; every rounding is that of timm and torchvision."""
        to_h, to_w = self.before_crop
        if self.crop_mode == "squash":
            return to_w, to_h
        if self.crop_mode == "border":
            ratio = max(width / to_w, height / to_h)
        elif to_w != to_h:
            ratio = min(width / to_w, height / to_h)
        else:
            short, long = sorted((width, height))
            longer = int(to_w * long / short)
            return (to_w, longer) if width <= height else (longer, to_w)
        return max(1, round(width / ratio)), max(1, round(height / ratio))


def preprocessing_of(backbone: Backbone) -> Preprocessing:
    """The backbone's own preprocessing, or what else is said of it (`Backbone.prepared`).

    A backbone that names none gets ImageNet's (mean, std, bicubic, 0.875 crop), as AutoFormer was
    trained; with one channel, the demo's mean and standard deviation. It is that of the model's own
    image size, whatever size the backbone runs on.
    """
    channels, height, width = backbone.own_facts.image_shape
    declared = getattr(backbone, "preprocessing", None)
    grey = {"mean": (MEAN,), "std": (STD,)} if channels == 1 else {}
    values: Mapping[str, Any] = declared() if callable(declared) else grey
    if backbone.prepared is not None:
        values = backbone.prepared
    return Preprocessing(channels, height, width, **dict(values))


def read_image(path: Path) -> Image.Image:
    """The decoded image as L or RGB of 8 bits, turned upright as its EXIF orientation says.

    A pure function of the file; `eight_bit` says how other depths are scaled.

    Raises:
        DataError: not a regular file, not an image, truncated, or more than 100 million pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # size is judged below; odd metadata harms nobody
            with open_regular(path) as file, Image.open(file, formats=FORMATS) as image:
                return _upright(image)
    except Image.DecompressionBombError as error:
        raise DataError(
            f"image '{path}' has more than the {MAX_PIXELS / 1e6:.0f} million pixels allowed;"
            " shrink it"
            " or take it out of the folder"
        ) from error
    except Exception as error:  # Pillow's readers raise whatever a damaged file leads them to
        reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        raise DataError(
            f"image '{path}' cannot be read ({reason}); replace it or take it out of the folder"
        ) from error


def open_regular(path: Path) -> BinaryIO:
    """The file, open for reading; a pipe or device is refused without waiting for it.

    Raises:
        OSError: it cannot be opened, or is not a regular file.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("not a regular file")
    return os.fdopen(descriptor, "rb")


def _upright(image: Image.Image) -> Image.Image:
    """An opened image, loaded, turned and brought to 8 bits."""
    if image.width * image.height > MAX_PIXELS:
        raise Image.DecompressionBombError
    top, inverted, deep = stated_top(image), is_white_zero(image), is_deep_colour(image)
    image.load()
    image.info.pop(GUESSED, None)  # a file may hold a text of that name
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:  # damaged metadata of any kind: the pixels are still what they are
        logger.debug("orientation cannot be read", exc_info=True)
    found = eight_bit(image, top=top, white_is_zero=inverted)
    brightest = int(np.asarray(found).max()) if deep else 0
    if 0 < brightest < 16:
        raise DataError("it uses 12 of its 16 bits a channel; scale it to 8 bits")
    return found


def _centre(
    image: Image.Image, width: int, height: int, fill: Sequence[int], *, down: bool
) -> Image.Image:
    """The central width x height, padded with `fill` where the image is smaller."""
    have_w, have_h = image.size
    if have_w < width or have_h < height:
        canvas_w, canvas_h = max(have_w, width), max(have_h, height)
        colour = tuple(fill) if len(fill) > 1 else fill[0]
        canvas = Image.new(image.mode, (canvas_w, canvas_h), colour)
        canvas.paste(image, (max(0, (width - have_w) // 2), max(0, (height - have_h) // 2)))
        image, have_w, have_h = canvas, canvas_w, canvas_h
    rest = (have_w - width, have_h - height)
    left, top = (side // 2 if down else round(side / 2.0) for side in rest)
    return image.crop((left, top, left + width, top + height))
