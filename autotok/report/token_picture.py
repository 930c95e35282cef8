"""Pictures of token maps: the image, then one panel for each change, as papers show them.

What is kept looks as it does in the image. A merged region has its mean colour (tinted where the
image is grey) and an outline, in one hue wherever parts of it lie. What was removed is greyed, what
is parked is blue and hatched, and what came back has a green edge.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from autotok.compression.token_map import MapStage, TokenMap
from autotok.evaluation.shown_image import ShownImage
from autotok.files import replacing

Pixels = NDArray[np.float32]
WASHED, WAITING, BACK, DIGIT = (0.80, 0.80, 0.80), (0.33, 0.49, 0.83), (0.1, 0.75, 0.25), "#e8b800"
TINT = 0.3
GAP, TITLE, LEGEND = 10, 36, 24
INK, PALE = "#222222", "#666666"
_SMALLEST = 6  # what can still be read


@dataclass(frozen=True)
class PictureSize:
    """How large a picture is."""

    side: int = 336
    """Pixels of a panel, at least; the image is enlarged by a whole number."""
    columns: int = 4
    most: int | None = None
    """Panels beside the image, evenly chosen; None for all."""
    colours: int | None = None
    """Of a smaller file; None keeps all."""
    shrinks: bool = False
    """Whether a larger image is made as small as `side`."""


def token_png(path: Path, shown: ShownImage, found: TokenMap, size: PictureSize) -> Path:
    """`path`, now a picture of where the patches of an image went."""
    stages = _chosen(found.changes, size.most)
    pixels = _shrunk(shown.pixels, size.side) if size.shrinks else shown.pixels
    scale = -(-size.side // max(pixels.shape[:2]))
    panels = [_enlarged(pixels, scale), *(_panel(pixels, found, s, scale) for s in stages)]
    high, wide = panels[0].shape[:2]
    columns = min(len(panels), size.columns)
    rows = -(-len(panels) // columns)
    across, down = wide + GAP, high + TITLE + GAP
    canvas = Image.new("RGB", (columns * across + GAP, rows * down + LEGEND), "white")
    draw, titles = (
        ImageDraw.Draw(canvas),
        [_heading(shown, found), *(_told(found, s) for s in stages)],
    )
    for number, (panel, title) in enumerate(zip(panels, titles, strict=True)):
        left, top = GAP + number % columns * across, number // columns * down
        draw.text((left, top + 4), title[0], INK, _font(13))
        draw.text((left, top + 20), title[1], PALE, _fitting(title[1], 11, wide))
        canvas.paste(Image.fromarray(np.round(panel * 255).astype(np.uint8)), (left, top + TITLE))
    if shown.digit is not None:
        box = np.argwhere(shown.digit.reshape(found.grid))
        cell = np.array([high / found.grid[0], wide / found.grid[1]])
        (top, left), (bottom, right) = box.min(0) * cell, (box.max(0) + 1) * cell
        at = (GAP + left - 1, TITLE + top - 1, GAP + right, TITLE + bottom)
        draw.rectangle(at, outline=DIGIT, width=2)
    _legend(draw, canvas.height - LEGEND + 4, stages, digit=shown.digit is not None)
    with replacing(path) as temporary:
        drawn = canvas if size.colours is None else canvas.quantize(size.colours)
        drawn.save(temporary, format="PNG", optimize=True)
    return path


def _chosen(stages: Sequence[MapStage], most: int | None) -> list[MapStage]:
    """At most so many, evenly spread, the last among them."""
    if most is None or len(stages) <= most:
        return list(stages)
    last = len(stages) - 1
    return [stages[round((i + 1) * (last + 1) / most) - 1] for i in range(most)]


def _enlarged(pixels: Pixels, scale: int) -> Pixels:
    return pixels.repeat(scale, axis=0).repeat(scale, axis=1)


def _shrunk(pixels: Pixels, side: int) -> Pixels:
    """The image, its longer side being `side` where that was longer."""
    image = Image.fromarray(np.round(pixels * 255).astype(np.uint8))
    image.thumbnail((side, side))
    return (np.asarray(image) / 255).astype(np.float32)


def _panel(pixels: Pixels, found: TokenMap, stage: MapStage, scale: int) -> Pixels:
    """The image as a stage has it."""
    high, wide = pixels.shape[:2]
    rows, columns = found.grid
    cell = (np.arange(high) * rows // high)[:, None] * columns + np.arange(wide) * columns // wide
    out = pixels.copy()
    merged, parked = stage.merged[cell], stage.parked[cell]
    holder = stage.holder[cell][merged]
    total = np.maximum(np.bincount(holder), 1)
    for channel in range(3):
        colour = np.bincount(holder, weights=out[..., channel][merged]) / total
        out[..., channel][merged] = colour[holder]
    if not np.ptp(pixels, axis=2).any():  # means of greys tell too little apart
        out[merged] += TINT * (_hues(stage.anchors[cell][merged]) - out[merged])
    out = _mixed(out, stage.removed[cell], WASHED, 0.75)
    out = _mixed(out, parked, WAITING, 0.55)
    out, cell = _enlarged(out, scale), cell.repeat(scale, axis=0).repeat(scale, axis=1)
    slanted = np.add.outer(np.arange(out.shape[0]), np.arange(out.shape[1])) % (4 * scale + 2) < 2
    out = _mixed(out, stage.parked[cell] & slanted, WAITING, 0.9)
    anchors = stage.anchors[cell]
    outline = _edges(anchors) & stage.merged[cell]
    out[outline] = _hues(anchors[outline])
    return _mixed(out, _edges(cell) & stage.recalled[cell], BACK, 1.0)


def _mixed(
    pixels: Pixels, where: NDArray[np.bool_], colour: Sequence[float], share: float
) -> Pixels:
    """The pixels, where asked with a share of a colour."""
    mixed = (1.0 - share) * pixels + share * np.array(colour, dtype=np.float32)
    return np.where(where[..., None], mixed, pixels).astype(np.float32)


def _edges(numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where a neighbour has another number; the border of the image counts."""
    padded = np.pad(numbers, 1, constant_values=-9)
    beside = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    found: NDArray[np.bool_] = np.logical_or.reduce([numbers != other for other in beside])
    return found


def _hues(numbers: NDArray[np.int64]) -> Pixels:
    """A bright colour for each number, neighbours far apart."""
    known, inverse = np.unique(numbers, return_inverse=True)
    table = [colorsys.hsv_to_rgb(number * 0.618034 % 1.0, 0.75, 0.95) for number in known]
    return np.array(table, dtype=np.float32).reshape(-1, 3)[inverse]


def _heading(shown: ShownImage, found: TokenMap) -> tuple[str, str]:
    size = f"{found.grid[0]} x {found.grid[1]} patches"
    return shown.name, f"class {shown.label}, {size}" if shown.label else size


def _told(found: TokenMap, stage: MapStage) -> tuple[str, str]:
    """'layer 3: 420 tokens', and what became of the patches."""
    counts = {
        "kept": stage.kept.sum(),
        f"merged in {stage.num_merging}": stage.merged.sum(),
        "parked": stage.parked.sum(),
        "removed": stage.removed.sum(),
        "back": stage.recalled.sum(),
    }
    parts = [f"{number} {word}" for word, number in counts.items() if number]
    return f"{found.place(stage)}: {stage.num_tokens} tokens", ", ".join(parts)


def _legend(
    draw: ImageDraw.ImageDraw, top: int, stages: Sequence[MapStage], *, digit: bool
) -> None:
    """A line that explains the marks which occur."""
    marks = {
        "the digit": (digit, DIGIT, "white"),
        "merged: mean colour, outlined": (
            any(s.merged.any() for s in stages),
            "#e03c8a",
            "#999999",
        ),
        "removed": (any(s.removed.any() for s in stages), "#cccccc", "#cccccc"),
        "parked": (any(s.parked.any() for s in stages), "#547dd4", "#9db4e6"),
        "recalled": (any(s.recalled.any() for s in stages), "#1abf40", "white"),
    }
    left = GAP
    for word, (occurs, edge, fill) in marks.items():
        if occurs:
            draw.rectangle((left, top + 1, left + 11, top + 12), fill=fill, outline=edge, width=2)
            draw.text((left + 17, top), word, PALE, _font(11))
            left += 34 + round(_font(11).getlength(word))


def _fitting(text: str, most: int, width: int) -> ImageFont.FreeTypeFont:
    """The largest font, up to `most` points, in which a text is no wider than its panel."""
    sizes = range(most, _SMALLEST, -1)
    fit = (size for size in sizes if _font(size).getlength(text) <= width)
    return _font(next(fit, _SMALLEST))


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    """matplotlib's own, as Pillow before 10.1 brings none that can be scaled."""
    import matplotlib

    fonts = Path(matplotlib.get_data_path()) / "fonts/ttf"
    return ImageFont.truetype(str(fonts / "DejaVuSans.ttf"), size)
