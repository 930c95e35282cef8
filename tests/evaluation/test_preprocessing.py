"""Images of every kind become the model's input, exactly as timm's transform does it."""

import os
import zlib
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


def test_a_size_before_the_crop_and_its_rounding_are_checked() -> None:
    with pytest.raises(ConfigError, match="crop_rounding 'up' is unknown; known: nearest, down"):
        Preprocessing(3, 32, 32, crop_rounding="up")
    with pytest.raises(ConfigError, match="resize 40 x 31 is less than the 32 x 32"):
        Preprocessing(3, 32, 32, resize=(40, 31))
    told = Preprocessing(3, 32, 32, resize=(40, 40), crop_rounding="down").to_dict()
    del told["image_shape"]
    assert Preprocessing(3, 32, 32, **told).resize == (40, 40)


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


RAMP = np.linspace(0.0, 1.0, 32 * 32).reshape(32, 32)


def values(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.asarray(read_image(path))


@pytest.mark.parametrize(
    ("scale", "offset"), [(1.0, 0.0), (2.0, -1.0), (255.0, 0.0), (65535.0, 0.0), (3e6, -1e6)]
)
def test_float_images_of_any_range_are_as_bright_as_they_are(
    tmp_path: Path, scale: float, offset: float
) -> None:
    path = tmp_path / "float.tif"
    Image.fromarray((RAMP * scale + offset).astype(np.float32)).save(path)
    assert np.abs(values(path) - 255 * RAMP).max() <= 1


def test_floats_that_leave_their_range_a_little_are_clipped(tmp_path: Path) -> None:
    path = tmp_path / "float.tif"
    Image.fromarray((RAMP * 1.04 - 0.02).astype(np.float32)).save(path)
    expected = 255 * np.clip(RAMP * 1.04 - 0.02, 0, 1)
    assert np.abs(values(path) - expected).max() <= 1


def test_what_is_no_number_is_dark_and_an_image_of_nothing_else_is_refused(tmp_path: Path) -> None:
    path, ramp = tmp_path / "float.tif", RAMP.astype(np.float32)
    ramp[5] = np.nan
    Image.fromarray(ramp).save(path)
    assert values(path)[5].max() == 0
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(path)
    with pytest.raises(DataError, match=r"float\.tif' cannot be read \(it holds no numbers"):
        read_image(path)


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_greys_of_fewer_bits_than_their_file_has_are_not_dark(
    tmp_path: Path, bits: int, suffix: str
) -> None:
    path = tmp_path / f"grey{suffix}"
    Image.fromarray(np.round(RAMP * (2**bits - 1)).astype(np.uint16)).save(path)
    assert np.abs(values(path) - 255 * RAMP).max() <= 1


@pytest.mark.parametrize(("top", "used"), [(1023, 1000), (16383, 9000), (65535, 3000)])
def test_a_tiff_that_states_its_largest_sample_is_scaled_by_it(
    tmp_path: Path, top: int, used: int
) -> None:
    path = tmp_path / "grey.tif"
    Image.fromarray((RAMP * used).astype(np.uint16)).save(path, tiffinfo={281: top})
    assert np.abs(values(path) - 255 * RAMP * used / top).max() <= 1


def test_a_dark_pgm_of_16_bits_stays_dark(tmp_path: Path) -> None:
    path = tmp_path / "grey.pgm"
    Image.fromarray((RAMP * 3000).astype(np.uint16)).save(path)
    assert np.abs(values(path) - 255 * RAMP * 3000 / 65535).max() <= 1


def test_colours_of_12_bits_in_16_are_refused_not_black(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    colour = np.stack([RAMP * 4095] * 3, axis=-1).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in colour)
    header = (32).to_bytes(4, "big") * 2 + bytes([16, 2, 0, 0, 0])
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            len(d).to_bytes(4, "big") + k + d + zlib.crc32(k + d).to_bytes(4, "big")
            for k, d in chunks
        )
    )
    with pytest.raises(DataError, match="12 of its 16 bits"):
        read_image(path)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(tmp_path: Path, suffix: str, orientation: int) -> None:
    upright = np.zeros((16, 32), np.uint8)
    upright[:8, :16] = 255  # the upper left quarter is white
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright.T[::-1, ::-1],
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned{suffix}"
    Image.fromarray(np.ascontiguousarray(stored)).convert("RGB").save(path, exif=exif)
    found = values(path)[:, :, 0]
    assert found.shape == upright.shape
    assert np.abs(found.astype(int) - upright).mean() < 8


def test_damaged_metadata_does_not_spoil_the_pixels(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    photo(20, 30).save(path, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert read_image(path).size == (20, 30)


def test_a_pipe_named_as_an_image_is_refused_without_waiting(tmp_path: Path) -> None:
    path = tmp_path / "pipe.jpg"
    os.mkfifo(path)
    with pytest.raises(DataError, match="not a regular file"):
        read_image(path)


@pytest.mark.parametrize("size", [(100_000, 1), (1, 100_000)])
def test_a_line_of_pixels_is_refused_before_it_is_resized_to_millions(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    path = tmp_path / "line.png"
    Image.new("RGB", size).save(path)
    with pytest.raises(DataError, match=r"line\.png' cannot be used: .* when resized"):
        Preprocessing(3, 224, 224).decoded(path)


def test_a_document_that_starts_programs_is_no_image(tmp_path: Path) -> None:
    path = tmp_path / "drawing.png"
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "utf-8")
    with pytest.raises(DataError, match=r"drawing\.png' cannot be read"):
        read_image(path)
