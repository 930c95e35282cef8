"""`preprocessing.json` of a bundle: from an image file to the model's input, as data and in words.

`infer.py` follows it, and so can a program in any other language.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from autotok.errors import printable
from autotok.names import is_numbered

from .formats import INPUT

FORMAT = 1
_RULES = {
    "center": "the shorter side becomes the length in 'to', the longer one in proportion",
    "squash": "both sides become those in 'to', whatever the proportions",
    "border": "the whole image fits into 'to', in proportion; the rest is filled with the mean",
}

_ROUNDINGS = {
    "nearest": "where half a pixel is left over at the top or left, the even number of pixels goes",
    "down": "of an odd number of pixels too many, the one more goes at the bottom and right",
}
_SHRINK = (
    "Resize that to {0} x {0}: bilinear between the four nearest pixels, corners on corners (pixel"
    " i lies at i * (old - 1) / (new - 1)), no antialiasing."
)


def preprocessing_file(
    preprocessing: Mapping[str, Any],
    *,
    file: str,
    batch: int | str,
    output: str,
    classes: int,
    side: int | None = None,
    class_names: Sequence[str] = (),
) -> dict[str, Any]:
    """Plain data of `preprocessing.json`.

    Args:
        preprocessing: Of a bundle: image_shape, mean, std, interpolation, crop_pct, crop_mode, and
            where they say so, resize and crop_rounding.
        file: The model file beside it.
        batch: Images per run, or 'dynamic'.
        output: Name of the file's output.
        classes: How many it gives; 0 for features.
        side: Pixels of the file's images, where they are resized to that size last.
        class_names: One for each of the classes, where they have any that are no numbers.
    """
    channels, height, width = preprocessing["image_shape"]
    share, rule = preprocessing["crop_pct"], preprocessing["crop_mode"]
    order = "grey" if channels == 1 else "RGB"
    to = list(preprocessing.get("resize") or (math.floor(s / share) for s in (height, width)))
    rounding = preprocessing.get("crop_rounding", "nearest")
    kind = preprocessing["interpolation"]
    mean, std = list(preprocessing["mean"]), list(preprocessing["std"])
    named = len(class_names) == classes and not is_numbered(class_names)
    words = _in_words(order, rule, to, kind, (height, width), rounding, mean, std)
    last: dict[str, Any] = {}
    crop = {"where": "center", "height": height, "width": width, "rounding": rounding}
    if side is not None and (height, width) != (side, side):
        last = {"shrink": {"to": [side, side], "interpolation": "bilinear", "corners": "aligned"}}
        words.insert(-1, _SHRINK.format(side))
        height = width = side
    return {
        "format": FORMAT,
        "file": file,
        "input": {
            "name": INPUT,
            "shape": [batch, channels, height, width],
            "layout": "NCHW",
            "dtype": "float32",
        },
        "output": {"name": output, "classes": classes},
        "channel_order": order,
        "resize": {"rule": rule, "to": to, "interpolation": kind, "antialias": True},
        "crop": crop,
        "scale": "1/255",
        "mean": mean,
        "std": std,
        **last,
        "in_words": words,
        **({"class_names": list(map(printable, class_names))} if named else {}),
    }


def _in_words(
    order: str,
    rule: str,
    to: Sequence[int],
    kind: str,
    size: tuple[int, int],
    rounding: str,
    mean: Sequence[float],
    std: Sequence[float],
) -> list[str]:
    numbers = ("mean " + ", ".join(f"{v:g}" for v in mean), ", ".join(f"{v:g}" for v in std))
    return [
        "Turn the image upright as its EXIF orientation says; 8 bits a channel, transparency"
        f" dropped, channels in the order {order}.",
        f"Resize with {kind} interpolation as Pillow does it (antialiased) to {to[0]} x {to[1]}"
        f" (height x width): {_RULES[rule]}.",
        f"Take the central {size[0]} x {size[1]}; {_ROUNDINGS[rounding]}.",
        f"Divide by 255, subtract the {numbers[0]}, divide by {numbers[1]}.",
        "Order as (batch, channels, height, width), float32.",
    ]
