"""Which class names a `best.yaml` is judged by again."""

import json
import logging
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import autotok
from autotok import CompressionConfig, FineTuneSpec, Reduction
from autotok.backbones.tiny import tiny_backbone
from autotok.cli.models import app
from autotok.errors import ConfigError, DataError
from autotok.evaluation.preprocessing import preprocessing_of
from autotok.export.best_yaml import BackboneRef, Bundle, read_best, write_best
from autotok.export.bundle import save_bundle
from autotok.report.told_classes import told_class_names, told_data

NAMES = tuple("jihgfedcba")
CONFIG = CompressionConfig("topk", (Reduction(1, num_keep=6),))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """An image in each of ten class folders, which the alphabet numbers in the wrong order."""
    for i, name in enumerate(NAMES):
        (tmp_path / "photos" / name).mkdir(parents=True)
        pixels = np.full((32, 32, 3), 20 * i, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / name / "0.png")
    (tmp_path / "names.txt").write_text("\n".join(NAMES), "utf-8")
    return tmp_path / "photos"


@pytest.fixture
def best(tmp_path: Path) -> Path:
    """As a search with class names writes it."""
    question = {"class_names": str(tmp_path / "names.txt"), "data": str(tmp_path / "photos")}
    return written(tmp_path, {"question": question})


def written(folder: Path, evidence: dict[str, Any]) -> Path:
    backbone = tiny_backbone()
    ref = BackboneRef.of(backbone.facts, name="tiny")
    bundle = Bundle(ref, CONFIG, preprocessing_of(backbone).to_dict(), evidence)
    return write_best(folder / "best.yaml", bundle)


def test_class_names_are_those_of_the_search(photos: Path, best: Path, tmp_path: Path) -> None:
    assert told_class_names(best, photos) == tmp_path / "names.txt"
    told = written(tmp_path, {"class_names": str(tmp_path / "names.txt")})
    assert told_class_names(told, str(photos)) == tmp_path / "names.txt"
    assert told_class_names(written(tmp_path, {"question": None}), photos) is None


def test_images_are_those_of_the_search_unless_others_are_given(
    photos: Path, best: Path, tmp_path: Path
) -> None:
    assert told_data(best) == str(photos)
    assert told_data(best, "digits") == "digits"
    assert told_data(written(tmp_path, {"data": "digits"})) == "digits"
    assert told_data(written(tmp_path, {})) == told_data(None) == "demo"
    gone = written(tmp_path, {"question": {"data": str(tmp_path / "gone")}})
    with pytest.raises(ConfigError, match=r"judged on '.*gone', which is not here; give"):
        told_data(gone)


def test_the_command_of_a_best_yaml_s_first_lines_judges_on_the_images_of_its_search(
    photos: Path, best: Path
) -> None:
    told = best.read_text("utf-8").splitlines()[1]
    assert told.endswith("autotok evaluate best.yaml")
    done = CliRunner().invoke(app, ["evaluate", str(best), "--json", "-q"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["data"], found["num_images"]) == (str(photos), 10)
    assert "names from" in found["labelling"]
    assert found["judged_format"] == "float32"


def test_images_without_names_of_classes_need_none(photos: Path, best: Path) -> None:
    assert told_class_names(best, photos / "a") is None
    assert told_class_names(best, "digits") is None


def test_class_names_that_are_gone_are_warned_of(
    photos: Path, best: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "names.txt").unlink()
    with caplog.at_level(logging.WARNING):
        assert told_class_names(best, photos) is None
    assert "names.txt' of " in caplog.text
    assert "are gone; give --class-names" in caplog.text


def test_an_evaluation_takes_the_class_names_of_the_search(photos: Path, best: Path) -> None:
    done = CliRunner().invoke(app, ["evaluate", str(best), "--data", str(photos), "--json", "-q"])
    assert done.exit_code == 0, done.output
    assert "names from" in json.loads(done.stdout)["labelling"]
    (photos.parent / "names.txt").write_text("\n".join("zihgfedcba"), "utf-8")
    with pytest.raises(DataError, match=r"class 'j' is none of .* \(names from"):
        autotok.evaluate(best, photos)


@pytest.mark.usefixtures("no_onnx")
def test_a_fine_tune_takes_them_too_and_hands_them_on(
    photos: Path, best: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = Mock(wraps=save_bundle)
    monkeypatch.setattr("autotok.report.finetune_run.save_bundle", saved)
    for name in NAMES:
        for i in range(1, 4):
            copy = photos / name / f"{i}.png"
            copy.write_bytes((photos / name / "0.png").read_bytes())
    photos.rename(photos.parent / "train")
    (photos / "train").parent.mkdir()
    (photos.parent / "train").rename(photos / "train")
    folder = photos.parent / "tuned"
    spec = FineTuneSpec(length="1 steps", batch_size=4, lr=1e-5)
    autotok.finetune(best, data=photos, spec=spec, num_images=10, output=folder)
    assert saved.call_args.kwargs["class_names"] == NAMES
    assert "names from" in read_best(folder / "best.yaml").evidence["labelling"]
    assert told_class_names(folder / "best.yaml", photos) == photos.parent / "names.txt"


def test_an_export_takes_the_class_names_of_the_search(
    photos: Path, best: Path, tmp_path: Path
) -> None:
    output = ["-o", str(tmp_path / "m.pt"), "--format", "torchscript", "--json"]
    asked = ["--data", str(photos), "--images", "10"]
    done = CliRunner().invoke(app, ["export", str(best), *output, *asked])
    assert done.exit_code == 0, done.output
    assert "names from" in json.loads(done.stdout)["labelling"]
    other = photos.parent / "other.txt"
    other.write_text("\n".join(reversed(NAMES)), "utf-8")
    done = CliRunner().invoke(
        app, ["export", str(best), *output, *asked, "--class-names", str(other)]
    )
    assert f"names from '{other}'" in json.loads(done.stdout)["labelling"]


@pytest.mark.usefixtures("no_onnx")
def test_a_bundle_takes_the_class_names_of_the_search_and_hands_them_on(
    photos: Path, best: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = Mock(wraps=save_bundle)
    monkeypatch.setattr("autotok.report.model_report.save_bundle", saved)
    for given in ([str(best)], [str(best), "--data", str(photos)]):
        done = CliRunner().invoke(app, ["compress", *given, "-o", str(tmp_path / "b"), "--json"])
        assert done.exit_code == 0, done.output
        assert saved.call_args.kwargs["class_names"] == NAMES
        assert told_class_names(tmp_path / "b", photos) == tmp_path / "names.txt"
    of_images = ["-b", "tiny", "--data", str(photos), "-o", str(tmp_path / "c"), "--json"]
    assert CliRunner().invoke(app, ["compress", *of_images]).exit_code == 0
    assert saved.call_args.kwargs["class_names"] == tuple(sorted(NAMES))
    gone = ["-b", "tiny", "--class-names", "gone.txt", "-o", str(tmp_path / "d")]
    with pytest.raises(DataError, match=r"class names 'gone\.txt' are no file"):
        CliRunner().invoke(app, ["compress", *gone], catch_exceptions=False)
