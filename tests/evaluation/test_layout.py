"""How a folder of images is laid out."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autotok.errors import DataError
from autotok.evaluation.folder import FolderData
from autotok.evaluation.layout import SUFFIXES, UNREAD, Layout
from autotok.evaluation.preprocessing import Preprocessing

SMALL = Preprocessing(3, 8, 8)

LETTERS = tuple("abcdefghij")


def fill(root: Path, *names: str) -> Path:
    """A small image in each of the folders of `root`."""
    for name in names:
        (root / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((9, 9, 3), 99, np.uint8)).save(root / name / "0.png")
    return root


def test_a_train_folder_alone_is_split_and_never_a_class(tmp_path: Path) -> None:
    for name in LETTERS:
        fill(tmp_path / "train", name)
        for i in range(1, 10):
            source = tmp_path / "train" / name / "0.png"
            source.with_name(f"{i}.png").write_bytes(source.read_bytes())
    val, train = (FolderData(tmp_path, SMALL, 10, split=split) for split in ("val", "train"))
    judged, trained = ({d.path(i) for i in range(len(d))} for d in (val, train))
    assert val.class_names == train.class_names == LETTERS
    assert not judged & trained
    assert (len(judged), len(trained)) == (20, 80)
    found = val.batch(range(20))[1]
    assert found is not None
    assert found.bincount().tolist() == [2] * 10
    assert "split by seed 0" in val.labelling
    again = FolderData(tmp_path, SMALL, 0)
    assert {again.path(i) for i in range(len(again))} == judged


def test_one_image_alone_cannot_be_split(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is the only image"):
        FolderData(fill(tmp_path, "train"), SMALL, 10)


def test_a_folder_named_for_training_too_is_split(tmp_path: Path) -> None:
    fill(tmp_path, *LETTERS)
    layout = Layout.of(tmp_path, tmp_path)
    parts = [FolderData(tmp_path, SMALL, 10, split=s, layout=layout) for s in ("val", "train")]
    files = [{d.path(i) for i in range(len(d))} for d in parts]
    assert not files[0] & files[1]
    assert len(files[0] | files[1]) == 10


@pytest.mark.parametrize("name", ["train", "val", "test", "training"])
def test_a_class_named_as_a_split_is_a_class(tmp_path: Path, name: str) -> None:
    fill(tmp_path, "airplane", "bus", "car", name, "truck")
    (tmp_path / "train.zip").touch()
    data = FolderData(tmp_path, SMALL, 5)
    assert len(data) == 5
    assert name in (data.class_names or ())
    again = FolderData(tmp_path, SMALL, 5, layout=Layout.of(tmp_path, tmp_path))
    assert "split by seed 0" in again.labelling


def test_a_class_named_as_a_split_inside_of_splits_is_a_class(tmp_path: Path) -> None:
    for split in ("train", "val"):
        fill(tmp_path / split, "bus", "train")
    for layout in (Layout.of(tmp_path), Layout.of(tmp_path / "val", tmp_path / "train")):
        assert layout == Layout(tmp_path / "val", tmp_path / "train")
    assert FolderData(tmp_path / "val", SMALL, 2).class_names == ("bus", "train")


def test_splits_of_class_folders_stay_so_beside_other_images(tmp_path: Path) -> None:
    fill(tmp_path, "train/a", "val/a", "thumbnails")
    assert Layout.of(tmp_path) == Layout(tmp_path / "val", tmp_path / "train")
    fill(tmp_path / "x", "train", ".hidden")
    (tmp_path / "x" / "annotations").mkdir()
    assert Layout.of(tmp_path / "x").shared


@pytest.mark.parametrize("inside", [("train/a",), ("train", "val"), ("train/a", "val")])
def test_what_may_be_a_split_or_a_class_is_asked_about(
    tmp_path: Path, inside: tuple[str, ...]
) -> None:
    fill(tmp_path, "bus", *inside)
    with pytest.raises(DataError, match="may be a split, or a class as 'bus' beside it is; give"):
        Layout.of(tmp_path)


@pytest.mark.parametrize("names", [("Train", "Val"), ("TRAINING", "Test"), ("train", "Validation")])
def test_splits_are_splits_whatever_their_case(tmp_path: Path, names: tuple[str, str]) -> None:
    train, val = (fill(tmp_path / name, "cat", "dog") for name in names)
    assert Layout.of(tmp_path) == Layout(val, train)
    assert Layout.of(val).classes() == train
    assert FolderData(tmp_path, SMALL, 2).class_names == ("cat", "dog")
    fill(tmp_path, "bus")
    assert Layout.of(tmp_path) == Layout(val, train)


def test_a_class_named_as_a_split_is_a_class_whatever_its_case(tmp_path: Path) -> None:
    fill(tmp_path, "Bus", "Car", "Train")
    assert FolderData(tmp_path, SMALL, 3).class_names == ("Bus", "Car", "Train")


def test_two_splits_that_differ_by_case_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, "train/a", "val/a", "Val/a")
    if len(list(tmp_path.iterdir())) < 3:
        pytest.skip("this file system knows no case")
    with pytest.raises(DataError, match=r"'Val' and 'val' of .* differ by case only.*rename one"):
        Layout.of(tmp_path)
    assert Layout.of(tmp_path / "val").classes() == tmp_path / "train"


def test_other_names_of_jpegs_are_read_and_other_kinds_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.jfif", "b.JPE", "c.jpg"):
        Image.new("RGB", (9, 9)).save(tmp_path / name, format="jpeg")
    for name in ("d.heic", "e.AVIF", "notes.txt", ".f.heic"):
        (tmp_path / name).write_bytes(b"")
    data = FolderData(tmp_path, SMALL, 10)
    assert len(data.subset(9, 0)) == 3
    assert "; 2 of kinds that are not read left out, the first is" in data.labelling
    assert "d.heic" in caplog.text


def test_a_folder_of_images_that_are_not_read_says_so(tmp_path: Path) -> None:
    (tmp_path / "d.heic").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"1 are of other kinds such as 'd\.heic'; make them one of"
    ):
        FolderData(tmp_path, SMALL, 10)


def test_the_docs_name_every_suffix_that_is_read() -> None:
    text = (Path(__file__).parents[2] / "docs/own-data.md").read_text("utf-8")
    assert not SUFFIXES & UNREAD
    assert all(re.search(rf"\{suffix}\b", text) for suffix in SUFFIXES)
