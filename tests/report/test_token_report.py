"""What is said of one image's tokens."""

from pathlib import Path

import pytest
from early import early_model
from PIL import Image

from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone
from autotok.compression.model import CompressedViT
from autotok.config import CompressionConfig, Reduction
from autotok.exits import ExitPolicy
from autotok.report.token_report import token_report, token_rows


def model(method: str, *keep: tuple[int, int]) -> CompressedViT:
    reductions = tuple(Reduction(layer, num_keep=count) for layer, count in keep)
    return compress_backbone(tiny_backbone(), CompressionConfig(method, reductions)).eval()


def test_a_digit_says_how_much_of_it_survives(tmp_path: Path) -> None:
    report = token_report(model("topk", (1, 8), (2, 2)), "demo:3", picture=tmp_path / "p.png")
    assert (report["image"], report["label"], report["patches"]) == ("demo 3", "3", 16)
    first, second = report["changes"]
    assert (first["tokens"], second["tokens"]) == (8, 2)
    assert first["digit"]["held"] >= second["digit"]["held"]
    with Image.open(report["picture"]) as picture:
        assert picture.width > 500
    heads, rows = token_rows(report)
    assert heads == ["at", "tokens", "kept", "removed", "digit held", "apart"]
    assert rows[0][:4] == ["layer 1", "8", "8", "8"]


def test_what_an_exit_answers_is_predicted_and_it_is_named() -> None:
    report = token_report(early_model(ExitPolicy((1, 3), threshold=(-1.0,))), "digits:1")
    assert report["stopped_behind_block"] == 1
    assert "stopped_behind_block" not in token_report(model("topk", (1, 8)), "digits:1")


def test_columns_in_which_nothing_happens_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.effect_noise((40, 40), 80).save(path)
    heads, rows = token_rows(token_report(model("tome", (0, 9)), str(path)))
    assert heads == ["at", "tokens", "kept", "merged", "into"]
    assert rows[0][0] == "layer 0"


@pytest.mark.parametrize(
    ("image", "told_of"), [("digits:1", "32 training images of 'digits'"), ("", "the image itself")]
)
def test_thresholds_that_nobody_found_are_found_first(
    tmp_path: Path, image: str, told_of: str
) -> None:
    path = tmp_path / "photo.png"
    Image.effect_noise((40, 40), 80).save(path)
    report = token_report(model("ats", (1, 8)), image or str(path))
    assert report["thresholds_found_on"] == told_of
    if not image:  # points are found that keep 8 of its tokens, or the next more
        assert report["changes"][0]["tokens"] >= 8
