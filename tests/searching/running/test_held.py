"""What judges the trials of a study is known wherever its files lie."""

import shutil
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image

from autotok.backbones.loading import load_backbone
from autotok.evaluation.accuracy import Evaluator
from autotok.evaluation.data import load_data
from autotok.predicting.target import load_target
from autotok.searching.running.held import held_by


def images(folder: Path, *, first: int = 0) -> Path:
    for number in range(4):
        (folder / "val" / f"{number}").mkdir(parents=True)
        pixels = np.full((32, 32), first + 20 * number, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "val" / f"{number}" / "a.png")
    return folder


def held(data: str | Path, seed: int = 0, target: str | None = None) -> dict[str, str]:
    backbone = load_backbone("tiny")
    evaluator = Evaluator(backbone, load_data(data, backbone), seed=seed)
    return held_by(evaluator, backbone, None if target is None else load_target(target))


def test_each_of_data_seed_and_target_is_told_apart() -> None:
    plain = held("digits")
    assert plain == held("digits")
    others = held("demo"), held("digits", seed=1), held("digits", target="raspberry-pi-4")
    apart = [{key for key in plain if plain[key] != other[key]} for other in others]
    assert apart == [{"data"}, {"seed"}, {"target"}]


def test_a_target_that_was_calibrated_anew_under_its_name_is_told_apart(tmp_path: Path) -> None:
    text = files("autotok.predicting").joinpath("targets/raspberry-pi-4.yaml").read_text("utf-8")
    paths = tmp_path / "same.yaml", tmp_path / "other.yaml"
    paths[0].write_text(text)
    paths[1].write_text(text.replace("value: 8192", "value: 8000"))
    known, same, other = (held("digits", target=str(t)) for t in ("raspberry-pi-4", *paths))
    assert known == same
    assert known["target"] == other["target"]
    assert known != other
    assert held("digits", target="local").keys() == held("digits").keys()  # every machine's own


def test_other_weights_of_the_same_model_are_told_apart() -> None:
    backbone = load_backbone("tiny")
    evaluator = Evaluator(backbone, load_data("digits", backbone))
    before = held_by(evaluator, backbone, None)
    next(backbone.parameters()).data += 1.0
    after = held_by(evaluator, backbone, None)
    assert {key for key in before if before[key] != after[key]} == {"weights"}


def test_a_folder_is_known_by_what_it_holds_wherever_it_lies(tmp_path: Path) -> None:
    one = images(tmp_path / "one")
    shutil.copytree(one, tmp_path / "elsewhere" / "two")
    assert held(one) == held(tmp_path / "elsewhere" / "two")
    assert held(one)["data"] != held(images(tmp_path / "three", first=5))["data"]
    (one / "val" / "0" / "a.png").rename(one / "val" / "0" / "b.png")
    assert held(one)["data"] != held(tmp_path / "elsewhere" / "two")["data"]
    assert str(tmp_path) not in str(held(one))


def test_a_folder_is_the_same_whatever_was_found_unreadable_since(tmp_path: Path) -> None:
    folder = images(tmp_path / "one")
    for number in range(4, 150):
        shutil.copytree(folder / "val" / "0", folder / "val" / f"{number}")
    (folder / "val" / "7" / "a.png").write_bytes(b"no picture")
    backbone = load_backbone("tiny")
    evaluator = Evaluator(backbone, load_data(folder, backbone))
    before = held_by(evaluator, backbone, None)
    assert len(evaluator.data.subset(150, 0)) == 149
    assert held_by(evaluator, backbone, None) == before
    assert evaluator.num_images == 150
