"""Token maps of a run's recommended configuration, kept in its folder for its page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from autotok.compression.model import CompressedViT
from autotok.compression.token_map import TokenMap, token_maps
from autotok.evaluation.data import DataSource
from autotok.evaluation.shown_image import ShownImage, shown_of
from autotok.files import replacing_folder, write_text

from .token_picture import PictureSize, token_png

FOLDER, CAPTIONS = "maps", "captions.json"
NUM_MAPS, TOGETHER = 12, 4
SIZE = PictureSize(side=232, columns=5, most=4, colours=96, shrinks=True)
MAX_BYTES = 4_500_000
"""Of the pictures in a page, which stays below 8 MB with them."""


@dataclass(frozen=True)
class KeptMap:
    """One picture of a run's folder."""

    caption: str
    png: bytes


def write_maps(folder: Path, model: CompressedViT, data: DataSource, *, seed: int = 0) -> None:
    """Draw the first images that were judged into `maps/` of a run's folder."""
    drawn = list(_mapped(model, data, data.subset(NUM_MAPS, seed)))
    classes = (data.class_names or ()) if model.backbone.facts.num_classes else ()
    with replacing_folder(folder / FOLDER) as fresh:
        for number, (shown, found) in enumerate(drawn):
            token_png(fresh / f"{number:02d}.png", shown, found, SIZE)
        kept = {
            "captions": [_caption(shown, found, classes) for shown, found in drawn],
            "summary": _summary(drawn),
        }
        write_text(fresh / CAPTIONS, json.dumps(kept, indent=1))


def kept_maps(folder: Path) -> tuple[str, list[KeptMap]]:
    """(what they have in common, the pictures) of a run's folder, as many as a page may hold."""
    try:
        kept = json.loads((folder / FOLDER / CAPTIONS).read_text("utf-8"))
        captions, summary = [str(c) for c in kept["captions"]], str(kept["summary"])
        files = [folder / FOLDER / f"{number:02d}.png" for number in range(len(captions))]
        pictures = [file.read_bytes() for file in files]
    except (OSError, ValueError, LookupError, TypeError):  # of an older run, or damaged
        return "", []
    found, total = [], 0
    for caption, png in zip(captions, pictures, strict=True):
        total += len(png)
        if total <= MAX_BYTES:
            found.append(KeptMap(caption, png))
    return summary, found


def _mapped(
    model: CompressedViT, data: DataSource, indices: Sequence[int]
) -> Iterator[tuple[ShownImage, TokenMap]]:
    for start in range(0, len(indices), TOGETHER):
        shown = [shown_of(data, i, model.backbone) for i in indices[start : start + TOGETHER]]
        yield from zip(
            shown, token_maps(model, torch.stack([s.tensor for s in shown])), strict=True
        )


def _caption(shown: ShownImage, found: TokenMap, classes: Sequence[str]) -> str:
    """'demo 17: 3, taken for 8', and how much of its digit is held in the end; `classes` are those
    that the model answers in, none without a head."""
    parts = []
    if shown.label and classes:
        said = classes[int(found.logits.argmax())]
        parts.append(
            shown.label + (", recognised" if said == shown.label else f", taken for {said}")
        )
    if shown.digit is not None and found.changes:
        left = found.changes[-1].survival(shown.digit)
        parts.append(f"{left['held']} of the digit's {left['patches']} patches held")
    return ": ".join([shown.name, "; ".join(parts)] if parts else [shown.name])


def _summary(drawn: Sequence[tuple[ShownImage, TokenMap]]) -> str:
    """How much of the demo's digits survives, in one sentence; '' for other images."""
    ends: list[dict[str, Any]] = [
        found.changes[-1].survival(shown.digit)
        for shown, found in drawn
        if shown.digit is not None and found.changes
    ]
    if not ends:
        return ""
    total, held, apart = (sum(e[k] for e in ends) for k in ("patches", "held", "held_apart"))
    grids = sum(found.grid[0] * found.grid[1] for _, found in drawn)
    alive = sum(int(found.changes[-1].live.sum()) for _, found in drawn if found.changes)
    return (
        f"of the digits' patches {100 * held / total:.0f} % are held by tokens in the end,"
        f" {100 * apart / total:.0f} % by tokens that hold nothing else; of all patches"
        f" {100 * alive / grids:.0f} % are"
    )
