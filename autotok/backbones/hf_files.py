"""What stands beside the weights of a transformers model: its configuration, how images are made
ready for it, and both written into one weight file so that this alone gives the model again."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from safetensors import safe_open

from autotok.errors import CheckpointError

log = logging.getLogger(__name__)
PREPROCESSORS = ("preprocessor_config.json", "processor_config.json")
KEY = "autotok.transformers"
"""Under which a weight file carries the model's class and configuration."""
RESAMPLING = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Pillow's filters by number, as preprocessor files have them."""
SHORTEST = ("CLIP", "ChineseCLIP", "Bit", "Siglip")
"""Preprocessors to which a size that is one number is the shortest edge; to others, a square's."""
CROPPING = ("CLIP", "ChineseCLIP", "Bit", "DeiT")
"""Those that crop where nothing is said of it."""
BICUBIC = (
    *("Beit", "Bit", "Blip", "ChineseCLIP", "CLIP", "ConvNext", "DPT", "DeiT", "EfficientNet"),
    *("Flava", "Levit", "OwlViT", "PoolFormer", "Siglip"),
)
"""Those that resample so where nothing is said of it; others take bilinear."""
MAX_JSON = 4_000_000


def read_json(path: Path) -> dict[str, Any]:
    """The object of a JSON file.

    Raises:
        CheckpointError: it is none, or too large to be one of these.
    """
    try:
        if path.stat().st_size > MAX_JSON:
            raise ValueError(f"it is larger than {MAX_JSON // 10**6} MB")
        found = json.loads(path.read_text("utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it holds no object")
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:100]
        raise CheckpointError(
            f"'{path}' cannot be read as JSON ({reason}); fetch it again"
        ) from error
    return found


def preprocessing_from(found: Mapping[str, Any], *, origin: str) -> dict[str, Any]:
    """A preprocessor file as `Preprocessing` has it, and the `side` of the images that come out,
    (height, width) of those that are no squares.

    Raises:
        CheckpointError: it asks for something that is no resizing, cropping and normalising.
    """
    inner = found.get("image_processor")
    given = dict(inner if isinstance(inner, Mapping) else found)
    try:
        values = _geometry(given) | _colours(given)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise CheckpointError(
            f"'{origin}' says nothing about images that autotok can follow"
            f" ({type(error).__name__}: {str(error)[:80]}); correct it or take it away"
        ) from error
    return values


def _geometry(given: Mapping[str, Any]) -> dict[str, Any]:
    """Resizing and cropping."""
    if not given.get("do_resize", True):
        raise ValueError("it does not resize")
    crop, kind = given.get("crop_size"), _kind(given)
    crops = crop is not None and ("shortest_edge" in _mapping(given["size"]) or kind in CROPPING)
    cropped = given.get("do_center_crop", crops)
    outer = _mapping(given["size"], shortest=kind in SHORTEST or (cropped and not kind))
    if "longest_edge" in outer:
        raise ValueError("it limits the longest edge, so that shapes differ")
    shortest = "shortest_edge" in outer
    if shortest and not cropped:
        raise ValueError("it resizes the shortest edge and crops nothing, so that shapes differ")
    resize = _sides(outer)
    height, width = _sides(_mapping(crop)) if cropped else resize
    if height > resize[0] or width > resize[1]:
        raise ValueError(f"it crops {height} x {width} pixels out of {resize[0]} x {resize[1]}")
    return {
        "side": height if height == width else (height, width),
        "interpolation": RESAMPLING[int(given.get("resample", 3 if kind in BICUBIC else 2))],
        "crop_pct": height / resize[0],
        "crop_mode": "center" if shortest else "squash",
        "resize": list(resize),
        "crop_rounding": "down",
    }


def _sides(size: Mapping[str, Any]) -> tuple[int, int]:
    """(height, width) of a size; both are the shortest edge where that is what it names."""
    edge = size.get("shortest_edge", 0)
    height, width = int(size.get("height", edge)), int(size.get("width", edge))
    if height < 1 or width < 1:
        raise ValueError("it names no size")
    return height, width


def _kind(given: Mapping[str, Any]) -> str:
    """What the class of a preprocessor is named after, such as "DeiT"; "" where none is told."""
    name = given.get("image_processor_type") or given.get("feature_extractor_type") or ""
    return re.split("ImageProcessor|FeatureExtractor", str(name))[0]


def _mapping(size: Any, *, shortest: bool = False) -> Mapping[str, Any]:
    """A size as an object; a number is both sides, or the shortest edge."""
    if not isinstance(size, int):
        return dict(size)
    return {"shortest_edge": size} if shortest else {"height": size, "width": size}


def _colours(given: Mapping[str, Any]) -> dict[str, Any]:
    """Mean and standard deviation of pixels between 0 and 1, whatever they are scaled to there."""
    scale = (
        255 * float(given.get("rescale_factor", 1 / 255)) if given.get("do_rescale", True) else 255
    )
    if not given.get("do_normalize", True):
        return {"mean": (0.0,) * 3, "std": (1 / scale,) * 3}
    mean, std = given["image_mean"], given["image_std"]
    return {
        "mean": tuple(float(value) / scale for value in mean),
        "std": tuple(float(value) / scale for value in std),
    }


@dataclass(frozen=True)
class Carried:
    """What a weight file says of its model."""

    kind: str
    """Its class."""
    config: dict[str, Any]
    preprocessing: dict[str, Any]


def told_in(path: Path) -> Carried | None:
    """What a weight file of `telling` carries; None where it carries nothing."""
    if path.suffix != ".safetensors":
        return None
    try:
        with safe_open(str(path), framework="pt") as file:
            text = (file.metadata() or {}).get(KEY)
        told = None if text is None else json.loads(text)
    except Exception:  # whatever is wrong with the file, reading its weights will say so
        return None
    if not isinstance(told, dict):
        return None
    config, given = told.get("config"), told.get("preprocessing")
    if not isinstance(config, dict) or not _is_preprocessing(given):
        return None
    return Carried(str(told.get("class")), config, dict(given))


def names_in(path: Path) -> list[str] | None:
    """Names of the tensors of a safetensors file, none of which is read; None of no such file."""
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    try:
        with safe_open(str(path), framework="pt") as file:
            return list(file.keys())
    except Exception:  # whatever is wrong with the file, reading its weights will say so
        return None


def _is_preprocessing(given: object) -> TypeGuard[dict[str, Any]]:
    """Whether plain data is what `preprocessing_from` may give."""
    kinds = {
        "mean": list, "std": list, "interpolation": str, "crop_pct": float, "crop_mode": str,
        "resize": list, "crop_rounding": str,
    }  # fmt: skip
    if not isinstance(given, dict) or not given.keys() <= kinds.keys():
        return False
    if not all(isinstance(value, kinds[key]) for key, value in given.items()):
        return False
    if not all(type(side) is int for side in given.get("resize", ())):
        return False
    return all(isinstance(v, float) for key in ("mean", "std") for v in given.get(key, ()))


def telling(model: Any, preprocessing: Mapping[str, Any]) -> dict[str, str]:
    """Metadata of a weight file that `told_in` reads."""
    kind, config = type(model).__name__, model.config.to_dict()
    told = {"class": kind, "config": config, "preprocessing": dict(preprocessing)}
    return {"format": "pt", KEY: json.dumps(told, default=str)}
