"""Pictures of token maps: what is where, and in which colour."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from autotok.compression.token_map import PARKED, REMOVED, MapStage, TokenMap
from autotok.evaluation.shown_image import ShownImage
from autotok.report.token_picture import GAP, TITLE, WASHED, PictureSize, token_png

SIDE = 64


def shown(digit: bool = False, *, grey: bool = False) -> ShownImage:
    """Four quarters, from black to white; the first is a little red unless all is grey."""
    pixels = np.zeros((SIDE, SIDE, 3), dtype=np.float32)
    for number, level in enumerate((0.0, 0.2, 0.8, 1.0)):
        row, column = divmod(number, 2)
        pixels[row * 32 : row * 32 + 32, column * 32 : column * 32 + 32] = level
    pixels[0, 0, 0] = 0.0 if grey else 0.01
    where = np.array([False, False, False, True]) if digit else None
    return ShownImage("quarters", torch.zeros(3, SIDE, SIDE), pixels, digit=where)


def found(*holders: list[int]) -> TokenMap:
    none = np.zeros(4, dtype=bool)
    stages = tuple(MapStage(i, "mlp", max(h) + 1, np.array(h), none) for i, h in enumerate(holders))
    return TokenMap("any", (2, 2), 12, stages, np.zeros(2, dtype=np.float32))


def panel(path: Path, number: int) -> np.ndarray:
    image = np.asarray(Image.open(path).convert("RGB"))
    left = GAP + number * (SIDE + GAP)
    return image[TITLE : TITLE + SIDE, left : left + SIDE]


def test_kept_patches_are_as_they_were_and_merged_ones_have_their_mean(tmp_path: Path) -> None:
    size = PictureSize(side=SIDE)
    path = token_png(tmp_path / "p.png", shown(), found([0, 0, 1, REMOVED]), size)
    drawn = panel(path, 1)
    assert panel(path, 0)[48, 16].tolist() == [204, 204, 204]
    assert drawn[48, 16].tolist() == [204, 204, 204]
    assert drawn[16, 16].tolist() == drawn[16, 48].tolist() == [26, 26, 26]
    assert drawn[16, 31].tolist() == [26, 26, 26]  # nothing between what is one token
    assert drawn[31, 16].tolist() != [26, 26, 26]  # its outline
    expected = 255 * (0.25 + 0.75 * WASHED[0])
    assert abs(int(drawn[48, 48, 0]) - expected) <= 1


def test_regions_of_a_grey_image_are_tinted(tmp_path: Path) -> None:
    size, maps = PictureSize(side=SIDE), found([0, 0, 1, 1])
    drawn = panel(token_png(tmp_path / "p.png", shown(grey=True), maps, size), 1)
    one, same, other = drawn[16, 16], drawn[16, 48], drawn[48, 16]
    assert one.tolist() == same.tolist()
    assert np.ptp(one) > 20
    assert np.ptp(other) > 20
    assert int(one.argmax()) != int(other.argmax())


def test_parked_patches_are_blue(tmp_path: Path) -> None:
    size = PictureSize(side=SIDE)
    path = token_png(tmp_path / "p.png", shown(), found([0, 1, 2, PARKED]), size)
    red, _, blue = panel(path, 1)[40:60, 40:60].reshape(-1, 3).mean(axis=0)
    assert blue > red + 20


def test_the_digit_is_framed(tmp_path: Path) -> None:
    size = PictureSize(side=SIDE)
    plain, framed = (
        token_png(tmp_path / f"{digit}.png", shown(digit), found([0, 1, 1, 1]), size)
        for digit in (False, True)
    )
    assert not np.array_equal(panel(plain, 0), panel(framed, 0))
    assert np.array_equal(panel(plain, 1), panel(framed, 1))


@pytest.mark.parametrize(("most", "width"), [(None, 4), (2, 3), (1, 2)])
def test_panels_are_as_many_as_asked_for(tmp_path: Path, most: int | None, width: int) -> None:
    maps = found([0, 1, 2, 2], [0, 1, 1, 1], [0, 0, 0, 0])
    size = PictureSize(side=SIDE, columns=9, most=most)
    with Image.open(token_png(tmp_path / "p.png", shown(), maps, size)) as image:
        assert image.width == width * (SIDE + GAP) + GAP


def test_a_picture_for_a_page_is_smaller(tmp_path: Path) -> None:
    maps = found([0, 1, 2, 2])
    size = PictureSize(side=32, colours=32, shrinks=True)
    with Image.open(token_png(tmp_path / "p.png", shown(), maps, size)) as image:
        assert image.width == 2 * (32 + GAP) + GAP
        assert image.mode == "P"
