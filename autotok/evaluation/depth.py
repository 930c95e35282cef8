"""From the sample depths that image files have to 8 bits: deep greys, floats, odd colour modes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from autotok.errors import DataError

RANGES = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (0.0, 4095.0), (0.0, 65535.0))
"""What values of an image may lie in, narrowest first; whole numbers start at the third."""
GUESSED = "autotok.range"
"""Where an image's `info` has the range that its values were taken to lie in, as its file does not
say it."""
OVERSHOOT = 0.05
"""Share of a range by which floats may leave it, as resampling does; they are clipped."""
# 4 MB as floats, whatever the size of the image
BAND_VALUES = 2**20
# tags of TIFF 6.0
BITS_PER_SAMPLE, PHOTOMETRIC, MAX_SAMPLE, FLOAT_MAX_SAMPLE = 258, 262, 281, 341


def eight_bit(
    image: Image.Image, *, top: int | None = None, white_is_zero: bool = False
) -> Image.Image:
    """The image as L or RGB of 8 bits, in which 255 is the brightest its file can say.

    Deep greys and floats: from 0 to `top` where the file states it (`stated_top`); otherwise the
    narrowest of 0-1 and -1-1 (floats only), 0-255, 0-4095 (12 bits in 16) and 0-65535 that holds
    every value of the image; failing that, from its lowest value to its highest. What is no number
    counts as the lowest. Transparency is dropped, as the models' own transforms do.

    Raises:
        DataError: none of the values is a number, or a colour image of 16 bits a channel uses 12.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        return _scaled(image, top, white_is_zero)
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode in ("1", "LA", "La") else "RGB")


def stated_top(image: Image.Image) -> int | None:
    """The highest value that an opened file says its greys can have; None where it says nothing.

    TIFF: 10, 12 or 14 bits per sample, or a largest sample of exactly as many bits; PGM: Pillow has
    scaled its greys to 16 bits.
    """
    if image.format == "PPM" and image.mode.startswith("I"):
        return 65535
    tags: dict[int, Any] = getattr(image, "tag_v2", {})
    bits: int = (tags.get(BITS_PER_SAMPLE) or (0,))[0]
    if 8 < bits < 16:
        return int(2**bits - 1)
    for tag in (MAX_SAMPLE, FLOAT_MAX_SAMPLE):
        found = np.asarray(tags.get(tag, 0)).ravel()
        if found.size and float(found[0]) in (1, *(2**bits - 1 for bits in range(8, 17))):
            return int(found[0])
    return None


def is_white_zero(image: Image.Image) -> bool:
    """Whether the greys of an opened TIFF count from white; Pillow turns 8 bits only."""
    tags: dict[int, Any] = getattr(image, "tag_v2", {})
    return tags.get(PHOTOMETRIC) == 0


def is_deep_colour(image: Image.Image) -> bool:
    """Whether an opened file has 16 bits a channel, of which Pillow keeps the upper 8."""
    return any(re.search(r"(RGB|LA).*;16", str(tile[3])) for tile in getattr(image, "tile", ()))


def _scaled(image: Image.Image, top: int | None, white_is_zero: bool) -> Image.Image:
    low, high = np.inf, -np.inf
    for band in _bands(image):
        finite = np.isfinite(band)
        low = min(low, band.min(initial=np.inf, where=finite))
        high = max(high, band.max(initial=-np.inf, where=finite))
    if low > high:
        raise DataError("it holds no numbers")
    bottom, ceiling = _range(low, high, None if top is None or high > top else top, image.mode)
    scale = 255.0 / (ceiling - bottom) if ceiling > bottom else 0.0
    rows = []
    for band in _bands(image):
        np.nan_to_num(band, copy=False, nan=low, posinf=low, neginf=low)
        band -= bottom
        band *= scale
        np.clip(np.rint(band, out=band), 0, 255, out=band)
        rows.append(255 - band.astype(np.uint8) if white_is_zero else band.astype(np.uint8))
    found = Image.fromarray(np.concatenate(rows))
    if (bottom, ceiling) != (0, top) and (low, high) != (0, 0):  # black is so in all of them
        found.info[GUESSED] = bottom, ceiling
    return found


def _range(low: float, high: float, top: int | None, mode: str) -> tuple[float, float]:
    """The values that become 0 and 255."""
    if top is not None and low >= 0:
        return 0.0, float(top)
    fits, over = (RANGES, OVERSHOOT) if mode == "F" else (RANGES[2:], 0.0)
    for bottom, ceiling in fits:
        slack = over * (ceiling - bottom)
        if bottom - slack <= low and high <= ceiling + slack:
            return bottom, ceiling
    return low, high


def _bands(image: Image.Image) -> Iterator[NDArray[np.floating[Any]]]:
    """The values, some rows at a time: a large image never stands in memory as floats."""
    rows = max(1, BAND_VALUES // image.width)
    exact = np.float64 if image.mode == "I" else np.float32
    for first in range(0, image.height, rows):
        band = image.crop((0, first, image.width, min(image.height, first + rows)))
        yield np.array(band, dtype=exact)
