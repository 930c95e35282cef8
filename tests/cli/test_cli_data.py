"""What the command line says about images: how labels were understood, what is missing."""

import json
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from autotok.export.bundle import save_bundle

Run = Callable[..., tuple[int, str, str]]
QUICK = ("--backbone", "tiny", "--method", "tome", "--keep", "0.6@1")
SEARCH = ("search", "--backbone", "tiny", "--budget", "60%", "--trials", "2", "--finetunes", "0")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Ten classes of five images in a train folder, and nothing else."""
    rng = np.random.default_rng(0)
    for name in range(10):
        folder = tmp_path / "photos" / "train" / str(name)
        folder.mkdir(parents=True)
        for i in range(5):
            pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "photos"


def test_evaluate_says_first_how_labels_were_understood(run: Run, photos: Path) -> None:
    code, out, err = run("evaluate", *QUICK, "--data", photos)
    assert code == 0
    assert err.splitlines()[0].startswith("evaluating:   0 %  labels: 10 classes: class indices")
    assert "a fifth of it to judge on" in err.splitlines()[0]
    assert "10" in next(line for line in out.splitlines() if line.startswith("num_images"))


def test_why_nothing_is_labelled_is_said(run: Run, photos: Path) -> None:
    code, out, _ = run("evaluate", *QUICK, "--data", photos / "train" / "3", "-q", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["metric"] == "agreement"
    assert found["labelling"].startswith("label-free: no class folders and no labels.csv")


@pytest.mark.usefixtures("no_onnx")
def test_a_fine_tune_says_it_too_and_trains_on_other_images(
    run: Run, photos: Path, tmp_path: Path
) -> None:
    code, out, err = run(
        "finetune", *QUICK, "--data", photos, "--length", "1 steps", "-o", tmp_path / "o"
    )
    assert code == 0
    assert err.splitlines()[0].startswith("fine-tuning:   0 %  labels: 10 classes: class indices")
    assert "10" in next(line for line in out.splitlines() if line.startswith("num_images"))


@pytest.mark.usefixtures("no_onnx")
@pytest.mark.slow
def test_a_search_says_it_and_judges_on_held_out_images_only(
    run: Run, photos: Path, tmp_path: Path
) -> None:
    code, _, err = run(*SEARCH, "--data", photos, "-o", tmp_path / "run")
    assert code == 0
    assert "labels: 10 classes: class indices, by class folders of 'train'" in err
    assert "10 images here" in err
    assert "labels: 10 classes" in (tmp_path / "run" / "report.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--train-data", "does not exist"),
        ("--class-names", "are no file"),
        ("--checkpoint", "does not exist"),
        ("--data", "does not exist"),
    ],
)
def test_a_mistyped_path_ends_a_search_even_when_quiet(
    run: Run, photos: Path, tmp_path: Path, option: str, words: str
) -> None:
    given = {"--data": photos, option: tmp_path / "mistyped"}
    arguments = [part for pair in given.items() for part in pair]
    code, _, err = run(*SEARCH, *arguments, "-o", tmp_path / "run", "-q")
    assert code == 2
    assert f"mistyped' {words}" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["--checkpoint", "--class-names", "--data"])
@pytest.mark.parametrize("verb", ["evaluate", "finetune"])
def test_a_mistyped_path_ends_an_evaluation_and_a_fine_tune(
    run: Run, photos: Path, tmp_path: Path, option: str, verb: str
) -> None:
    given = {"--data": photos, option: tmp_path / "mistyped"}
    code, _, err = run(verb, *QUICK, *(part for pair in given.items() for part in pair), "-q")
    assert code == 2
    assert "mistyped'" in err
    assert len(err.splitlines()) == 1


def test_training_data_that_cannot_be_used_ends_a_search(
    run: Run, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    code, _, err = run(
        *SEARCH, "--data", photos, "--train-data", tmp_path / "empty", "-o", tmp_path / "run", "-q"
    )
    assert code == 2
    assert "holds no images" in err


@pytest.mark.usefixtures("no_onnx")
def test_class_names_are_part_of_the_question_and_are_handed_over(
    run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join(map(str, reversed(range(10)))), "utf-8")
    saved = Mock(wraps=save_bundle)
    monkeypatch.setattr("autotok.report.handover.save_bundle", saved)
    folder = tmp_path / "run"
    assert run(*SEARCH, "--data", photos, "--class-names", names, "-o", folder, "-q")[0] == 0
    assert f"class_names: {names}" in (folder / "config.yaml").read_text("utf-8")
    assert saved.call_args.kwargs["class_names"] == tuple(map(str, reversed(range(10))))
    code, out, _ = run("evaluate", *QUICK, "--data", photos, "--class-names", names, "--json")
    assert code == 0
    assert "names from" in json.loads(out)["labelling"]


def test_names_with_control_characters_reach_no_terminal(
    run: Run, photos: Path, tmp_path: Path
) -> None:
    evil = tmp_path / "\x1b]0;title\x07\x1b[2J"
    photos.rename(evil)
    (evil / "train" / "0" / "\x1b[31m.png").write_text("no image")
    code, out, err = run("evaluate", *QUICK, "--data", evil / "train")
    assert code == 2
    assert "\\x1b[31m.png' cannot be read" in err
    assert "\x1b" not in out + err
    (evil / "train" / "0" / "\x1b[31m.png").unlink()
    code, out, err = run("evaluate", *QUICK, "--data", evil)
    assert code == 0
    assert "\\x1b]0;title\\x07" in out
    assert "\x1b" not in out + err
    assert "\x07" not in out + err
