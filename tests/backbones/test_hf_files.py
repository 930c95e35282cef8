"""Preprocessor files of Hugging Face as autotok's own words."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hf_models import PREPROCESSOR, transformers
from PIL import Image
from safetensors.torch import save_file

from autotok.backbones.hf_facts import sides_of
from autotok.backbones.hf_files import (
    BICUBIC,
    KEY,
    RESAMPLING,
    Carried,
    preprocessing_from,
    read_json,
    told_in,
)
from autotok.errors import CheckpointError
from autotok.evaluation.preprocessing import Preprocessing

SQUASHED = {
    "do_resize": True, "size": {"height": 32, "width": 32}, "resample": 2, "do_rescale": True,
    "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}  # fmt: skip
DEIT = SQUASHED | {
    "feature_extractor_type": "DeiTFeatureExtractor", "size": 40, "crop_size": 32,
    "do_center_crop": True, "resample": 3,
}  # fmt: skip


@pytest.mark.parametrize("kind", [*BICUBIC, "ViT", "DINOv3ViT", "Siglip2", "ImageGPT", "Sam"])
def test_what_a_file_leaves_out_is_resampled_as_its_class_does(kind: str) -> None:
    own = getattr(transformers, f"{kind}ImageProcessor", None)
    if own is None:
        pytest.skip("this version of transformers has no such class")
    size = {"height": 32, "width": 32}
    told = {"image_processor_type": own.__name__, "do_center_crop": False, "size": size}
    found = preprocessing_from(told | {"do_normalize": False}, origin="file")
    assert found["interpolation"] == RESAMPLING[int(own().resample)]


def photo(width: int, height: int = 45) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


LARGE = {"size": {"shortest_edge": 410}, "crop_size": {"height": 224, "width": 224}}
"""A share of which timm's rounding makes 409 pixels."""


@pytest.mark.parametrize("width", [61, 62, 63, 64])  # crops lie on pixels, and between them
@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("ViTImageProcessorPil", SQUASHED),
        ("ViTImageProcessorPil", SQUASHED | {"size": {"height": 24, "width": 32}}),
        ("BitImageProcessorPil", PREPROCESSOR),
        ("BitImageProcessorPil", PREPROCESSOR | {"crop_size": {"height": 24, "width": 32}}),
        ("BitImageProcessorPil", PREPROCESSOR | LARGE),
        ("DeiTImageProcessorPil", DEIT),
        ("CLIPImageProcessorPil", PREPROCESSOR | {"size": {"shortest_edge": 32}}),
        ("SiglipImageProcessorPil", SQUASHED | {"resample": 3}),
    ],
)
def test_pixels_are_those_that_transformers_makes(
    kind: str, values: dict[str, Any], width: int
) -> None:
    processor = getattr(transformers, kind, None)
    if processor is None:
        pytest.skip("this version of transformers calls it otherwise")
    expected = processor(**values)(photo(width), return_tensors="pt")["pixel_values"][0]
    found = preprocessing_from(values, origin="file")
    ours = Preprocessing(3, *sides_of(found.pop("side")), **found)
    got = ours.normalise(ours.pixels(photo(width)).unsqueeze(0))[0]
    torch.testing.assert_close(got, expected, atol=2 / 255 / 0.1, rtol=0)
    assert float((got - expected).abs().mean()) < 0.01


@pytest.mark.parametrize("kind", ["ViT", "DeiT", "Beit", "CLIP", "ChineseCLIP", "Bit", "Siglip"])
@pytest.mark.parametrize("cropped", [True, False, None])
def test_a_size_that_is_one_number_is_what_it_is_to_its_preprocessor(
    kind: str, cropped: bool | None
) -> None:
    processor = getattr(transformers, f"{kind}ImageProcessorPil", None)
    if processor is None:
        pytest.skip("this version of transformers calls it otherwise")
    written: dict[str, Any] = {"size": 256, "crop_size": 224}
    written |= {} if cropped is None else {"do_center_crop": cropped}
    theirs = processor(**written)
    values = SQUASHED | written
    for name in (f"{kind}ImageProcessor", f"{kind}ImageProcessorFast"):
        squashed = theirs.size.height is not None
        if not (squashed or theirs.do_center_crop):  # images of any shape come out
            with pytest.raises(CheckpointError, match="crops nothing, so that shapes differ"):
                preprocessing_from(values | {"image_processor_type": name}, origin="file")
            return
        found = preprocessing_from(values | {"image_processor_type": name}, origin="file")
        assert found["crop_mode"] == ("squash" if squashed else "center")
        assert found["side"] == (224 if theirs.do_center_crop else 256)
        assert found["resize"] == [256, 256]
    old = preprocessing_from(
        values | {"feature_extractor_type": f"{kind}FeatureExtractor"}, origin=""
    )
    assert old == found


def test_a_size_of_a_preprocessor_without_a_name_is_read_by_whether_it_is_cropped() -> None:
    number = SQUASHED | {"size": 256, "crop_size": 224}
    cropped = preprocessing_from(number | {"do_center_crop": True}, origin="file")
    assert (cropped["crop_mode"], cropped["side"]) == ("center", 224)
    whole = preprocessing_from(number | {"do_center_crop": False}, origin="file")
    assert (whole["crop_mode"], whole["side"]) == ("squash", 256)


def test_other_scales_of_pixels_are_those_of_the_means() -> None:
    found = preprocessing_from(SQUASHED | {"rescale_factor": 1 / 127.5}, origin="file")
    assert found["mean"] == pytest.approx((0.25,) * 3)
    assert found["std"] == pytest.approx((0.25,) * 3)
    plain = preprocessing_from(SQUASHED | {"do_normalize": False}, origin="file")
    assert plain["mean"] == (0.0,) * 3
    assert plain["std"] == pytest.approx((1.0,) * 3)


def test_a_processors_file_holds_the_images_part_inside() -> None:
    inside = preprocessing_from({"image_processor": SQUASHED}, origin="file")
    assert inside == preprocessing_from(SQUASHED, origin="file")
    assert inside["crop_mode"] == "squash"


@pytest.mark.parametrize(
    "change",
    [
        {"do_resize": False}, {"size": {"longest_edge": 30}}, {"size": {"height": 32}},
        {"size": {"shortest_edge": 32, "longest_edge": 48}}, {"size": {"shortest_edge": 32}},
        {"resample": 9}, {"size": "large"},
        {"image_mean": None}, {"do_center_crop": True, "crop_size": {"height": 90, "width": 90}},
    ],
)  # fmt: skip
def test_what_cannot_be_followed_is_one_sentence(change: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="nothing about images that autotok can") as caught:
        preprocessing_from(SQUASHED | change, origin="preprocessor_config.json")
    assert "\n" not in str(caught.value)


def test_what_a_weight_file_says_is_taken_only_if_it_can_be(tmp_path: Path) -> None:
    kept = {"mean": [0.5], "crop_pct": 1.0, "resize": [256, 256], "crop_rounding": "down"}
    good = {"class": "ViTModel", "config": {}, "preprocessing": kept}
    found = []
    for told in (
        good,
        {**good, "preprocessing": {"mean": "grey"}},
        {**good, "preprocessing": {"mean": [None]}},
        {**good, "preprocessing": {"angle": 3}},
        {**good, "preprocessing": {"resize": [256, "256"]}},
        {**good, "config": []},
        [good],
    ):
        path = tmp_path / "weights.safetensors"
        save_file({"weight": torch.ones(1)}, path, metadata={KEY: json.dumps(told)})
        found.append(told_in(path))
    assert found[0] == Carried("ViTModel", {}, kept)
    assert found[1:] == [None] * 6
    path.write_bytes(b"no file of this kind")
    assert told_in(path) is None


def test_a_file_that_is_no_object_is_refused(tmp_path: Path) -> None:
    for text in ("[1, 2]", "{", "\x00"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(CheckpointError, match="cannot be read as JSON"):
            read_json(tmp_path / "config.json")
