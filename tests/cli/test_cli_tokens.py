"""`autotok tokens`: what it says and draws, and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

Run = Callable[..., tuple[int, str, str]]
HOW = ("-b", "tiny", "--method", "evit", "--keep", "0.5@1")


def test_it_says_and_draws_where_the_tokens_went(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "map.png"
    code, out, err = run("tokens", "demo:3", *HOW, "--out", path)
    assert code == 0, err
    assert "demo 3: 16 patches, evit; class 3, predicted" in out
    assert "layer 1" in out
    assert f"picture: {path}" in out
    with Image.open(path) as picture:
        assert picture.width > 300


def test_a_configuration_says_the_same_in_json(
    run: Run, finished_run: Path, tmp_path: Path
) -> None:
    image = tmp_path / "[red]noise.png"
    Image.effect_noise((64, 48), 90).save(image)
    code, out, err = run(
        "tokens", image, "--config", finished_run / "best.yaml", "-o", tmp_path / "p.png", "--json"
    )
    assert code == 0, err
    report = json.loads(out)
    assert report["image"] == "[red]noise.png"
    assert all(len(c["token_of_patch"]) == report["patches"] for c in report["changes"])
    code, out, _ = run("tokens", image, *HOW, "-o", tmp_path / "p.png")
    assert "[red]noise.png: 16 patches" in out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("nothing.jpg", *HOW), "image 'nothing.jpg' is no file; give an image file"),
        (("demo:99999", *HOW), "has images 0 to 1999"),
        (("demo", "-b", "tiny"), "give a best.yaml with --config, or --method tome -r 16"),
        (("demo", "-b", "tiny", "--method", "tomee"), "did you mean 'tome'"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], told: str
) -> None:
    code, _, err = run("tokens", *arguments, "-o", tmp_path / "p.png")
    assert code in (1, 2)
    assert told in err
    assert err.count("\n") == 1
    assert not (tmp_path / "p.png").exists()


def test_a_picture_is_called_one(run: Run, tmp_path: Path) -> None:
    code, _, err = run("tokens", "demo:3", *HOW, "--out", tmp_path / "p.xyz")
    assert code == 2
    assert "p.xyz' is no name of a file of this format; give one that ends in .png" in err
    assert not (tmp_path / "p.xyz").exists()
