"""Images of every kind become the model's input, exactly as timm's transform does it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from autotok.backbones.tiny import tiny_backbone
from autotok.backbones.torchvision_shim import ensure_torchvision
from autotok.errors import ConfigError, DataError
from autotok.evaluation.preprocessing import Preprocessing, preprocessing_of, read_image

SIZES = [(64, 48), (31, 97), (20, 20), (200, 33), (37, 37), (1, 50)]


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (32, 48)])
def test_preprocessing_equals_timms_evaluation_transform(
    crop_mode: str, interpolation: str, height: int, width: int
) -> None:
    ensure_torchvision()
    create: Any = pytest.importorskip("timm.data").create_transform
    config: dict[str, Any] = {
        "mean": (0.4, 0.5, 0.6),
        "std": (0.2, 0.25, 0.3),
        "interpolation": interpolation,
        "crop_pct": 0.9,
        "crop_mode": crop_mode,
    }
    theirs = create((3, height, width), is_training=False, **config)
    ours = Preprocessing(3, height, width, **config)
    for size in SIZES:
        image = photo(*size)
        expected = theirs(image)
        got = ours.normalise(ours.pixels(image)[None])[0]
        assert torch.allclose(got, expected, atol=1e-6), size


def test_preprocessing_of_a_timm_model_is_what_timm_resolves() -> None:
    found = preprocessing_of(tiny_backbone())
    assert (found.channels, found.height, found.width) == (3, 32, 32)
    assert found.interpolation in {"bicubic", "bilinear"}


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "LA", "1", "I;16", "I", "YCbCr"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_colour_mode_becomes_the_models_channels(
    tmp_path: Path, mode: str, channels: int
) -> None:
    suffix = {"CMYK": ".tif", "I": ".tif", "YCbCr": ".jpg"}.get(mode, ".png")
    path = tmp_path / f"image{suffix}"
    if mode.startswith("I"):
        kind = np.uint16 if mode == "I;16" else np.int32
        Image.fromarray(np.full((40, 50), 40_000, dtype=kind)).save(path)
    else:
        photo(50, 40).convert(mode).save(path)
    pixels = Preprocessing(channels, 32, 32).pixels(read_image(path))
    assert pixels.shape == (channels, 32, 32)
    assert pixels.dtype == torch.uint8
    if mode.startswith("I"):
        assert int(pixels.max()) == 40_000 // 256


def test_a_palette_with_transparency_is_read(tmp_path: Path) -> None:
    path = tmp_path / "palette.png"
    photo(40, 40).quantize(16).save(path, transparency=bytes(range(16)))
    assert Preprocessing(3, 32, 32).pixels(read_image(path)).shape == (3, 32, 32)


def test_a_truncated_image_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    photo(64, 64).save(path)
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(DataError, match=r"cut\.jpg' cannot be read"):
        read_image(path)


def test_a_text_file_named_as_an_image_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "note.png"
    path.write_text("not an image")
    with pytest.raises(DataError, match=r"note\.png' cannot be read"):
        read_image(path)


@pytest.mark.parametrize("side", [10_100, 20_000])
def test_an_image_of_too_many_pixels_is_refused_by_name(tmp_path: Path, side: int) -> None:
    path = tmp_path / "huge.png"
    Image.new("1", (side, side)).save(path)
    with pytest.raises(DataError, match=r"huge\.png' has more than the 100 million"):
        read_image(path)


def test_channels_that_no_image_file_has_are_refused() -> None:
    with pytest.raises(ConfigError, match="4 image channels"):
        Preprocessing(4, 32, 32)
