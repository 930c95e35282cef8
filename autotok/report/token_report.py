"""Where the tokens of an image went: as plain data, as rows of a table, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autotok.compression.calibrate import CALIBRATION_IMAGES, calibrated, needs_calibration
from autotok.compression.model import CompressedViT
from autotok.compression.token_map import TokenMap, token_maps
from autotok.evaluation.data import load_data
from autotok.evaluation.shown_image import ShownImage, shown_image
from autotok.files import check_output_file

from .token_picture import PictureSize, token_png

_BUILT_IN = ("demo", "digits")


def token_report(
    model: CompressedViT, image: str, *, picture: str | Path | None = None
) -> dict[str, Any]:
    """What became of every patch of one image at each reduction, as plain data.

    Args:
        image: An image file, or 'demo:N' or 'digits:N'.
        picture: File to draw it to, a .png.

    Raises:
        DataError: there is no such image.
        RunDirectoryError: the picture cannot be written, or is none by its name.
    """
    if picture is not None:
        check_output_file(picture, suffix=".png")
    shown = shown_image(image, model.backbone)
    model, thresholds = _with_thresholds(model, shown, image)
    (found,) = token_maps(model, shown.tensor[None])
    data = told(found, shown)
    if thresholds:
        data["thresholds_found_on"] = thresholds
    if picture is not None:
        data["picture"] = str(token_png(Path(picture), shown, found, PictureSize()))
    return data


def told(found: TokenMap, shown: ShownImage) -> dict[str, Any]:
    """A map as plain data; for a digit of the demo, how much of it survives as well."""
    stages = []
    for stage in found.changes:
        row = {"at": found.place(stage), **stage.to_dict()}
        if shown.digit is not None:
            row["digit"] = stage.survival(shown.digit)
        stages.append(row)
    data: dict[str, Any] = {
        "image": shown.name,
        "method": found.method,
        "grid": list(found.grid),
        "patches": found.grid[0] * found.grid[1],
        "changes": stages,
    }
    if shown.label:
        data |= {"label": shown.label, "predicted": int(found.logits.argmax())}
    if found.stopped is not None:
        data["stopped_behind_block"] = found.stopped
    return data


def token_rows(data: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """(headings, rows of cells) of such data; columns in which nothing happens are left out."""
    columns = {
        "at": "at",
        "tokens": "tokens",
        "kept": "kept",
        "merged": "merged",
        "merged_into": "into",
        "parked": "parked",
        "recalled": "recalled",
        "removed": "removed",
    }
    stages: Sequence[dict[str, Any]] = data["changes"]
    always = ("at", "tokens", "kept")
    used = {k: v for k, v in columns.items() if k in always or any(s[k] for s in stages)}
    rows = [[str(stage[key]) for key in used] for stage in stages]
    heads = list(used.values())
    if any("digit" in stage for stage in stages):
        heads.append("digit held")
        for row, stage in zip(rows, stages, strict=True):
            row.append(f"{stage['digit']['held']} of {stage['digit']['patches']}")
        heads.append("apart")
        for row, stage in zip(rows, stages, strict=True):
            row.append(str(stage["digit"]["held_apart"]))
    return heads, rows


def _with_thresholds(
    model: CompressedViT, shown: ShownImage, image: str
) -> tuple[CompressedViT, str]:
    """The model under thresholds that meet its amounts, and what they were found on, if they had to
    be: training images of a built-in set, or the image itself."""
    if not needs_calibration(model.config):
        return model, ""
    images, told_of = shown.tensor[None], "the image itself"
    name = image.partition(":")[0]
    if name in _BUILT_IN:
        source = load_data(name, model.backbone, split="train")
        images, _ = source.batch(source.subset(CALIBRATION_IMAGES, 0))
        told_of = f"{len(images)} training images of '{name}'"
    return calibrated(model, images), told_of
