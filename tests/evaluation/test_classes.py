"""Labels by name: which class of the model a folder or a row of labels.csv means."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autotok.backbones.tiny import tiny_backbone
from autotok.errors import DataError
from autotok.evaluation.classes import Source, read_class_names, understand
from autotok.evaluation.data import load_data
from autotok.evaluation.folder import FolderData
from autotok.evaluation.layout import Layout
from autotok.evaluation.preprocessing import Preprocessing

SMALL = Preprocessing(3, 8, 8)
LETTERS = tuple("abcdefghij")


def fill(root: Path, *names: str) -> Path:
    """A small image in each of the folders of `root`."""
    for name in names:
        (root / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((9, 9, 3), 99, np.uint8)).save(root / name / "0.png")
    return root


def labels(data: FolderData) -> dict[str, int]:
    """Label of every image by the folder it lies in."""
    found = data.batch(range(len(data)))[1]
    assert found is not None
    names = [data.path(i).parent.name for i in range(len(data))]
    return dict(zip(names, found.tolist(), strict=True))


def test_a_thousand_folders_named_by_index_mean_their_index(tmp_path: Path) -> None:
    fill(tmp_path, *map(str, range(1000)))
    found = labels(FolderData(tmp_path, SMALL, 1000))
    assert found == {str(i): i for i in range(1000)}


def test_indices_may_have_leading_zeros(tmp_path: Path) -> None:
    assert labels(FolderData(fill(tmp_path, "003", "017"), SMALL, 100)) == {"003": 3, "017": 17}


def test_two_folders_of_one_index_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="classes '03' and '3' are the same one"):
        FolderData(fill(tmp_path, "3", "03"), SMALL, 10)


def test_a_partial_val_set_is_labelled_by_the_names_of_train(tmp_path: Path) -> None:
    fill(tmp_path / "train", *LETTERS)
    fill(tmp_path / "val", *LETTERS[1:])
    data = FolderData(tmp_path, SMALL, 10)
    assert labels(data) == {name: i for i, name in enumerate(LETTERS) if i}
    assert data.class_names == LETTERS
    assert data.labelling.startswith("labels: 9 of 10 classes (no images of 'a')")


def test_a_val_folder_named_itself_still_has_the_classes_of_its_train_folder(
    tmp_path: Path,
) -> None:
    fill(tmp_path / "train", *LETTERS)
    data = FolderData(fill(tmp_path / "val", "j"), SMALL, 10)
    assert labels(data) == {"j": 9}


def test_a_val_class_that_train_does_not_have_is_named(tmp_path: Path) -> None:
    fill(tmp_path / "train", *LETTERS)
    fill(tmp_path / "val", *LETTERS[1:], "z")
    with pytest.raises(DataError, match="class 'z' is none of the model's 10 classes"):
        FolderData(tmp_path, SMALL, 10)


def test_a_stray_folder_among_indices_or_synsets_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="class 'stray' is none of the model's 10"):
        FolderData(fill(tmp_path / "a", *map(str, range(9)), "stray"), SMALL, 10)
    with pytest.raises(DataError, match="class 'stray' is none of the model's 1000"):
        FolderData(fill(tmp_path / "b", "n01440764", "n15075141", "stray"), SMALL, 1000)


def test_folders_counted_from_one_are_asked_about_not_guessed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"class '10' is none .* --class-names FILE"):
        FolderData(fill(tmp_path, *(str(i) for i in range(1, 11))), SMALL, 10)


def test_an_empty_class_folder_keeps_its_place_and_is_named(tmp_path: Path) -> None:
    fill(tmp_path, *LETTERS[1:])
    (tmp_path / "a").mkdir()
    data = FolderData(tmp_path, SMALL, 10)
    assert labels(data)["b"] == 1
    assert "9 of 10 classes (no images of 'a')" in data.labelling


def test_a_missing_class_folder_gives_no_labels_and_says_why(tmp_path: Path) -> None:
    data = FolderData(fill(tmp_path, *LETTERS[1:]), SMALL, 10)
    assert not data.labelled
    assert "are 9, the model's classes 10; --class-names FILE" in data.labelling


def test_a_loose_image_beside_class_folders_is_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path, *LETTERS, "")
    with caplog.at_level(logging.WARNING):
        data = FolderData(tmp_path, SMALL, 10)
    assert data.labelled
    assert len(data) == 10
    for text in (caplog.text, data.labelling):
        assert "1 without a class left out" in text
        assert str(tmp_path / "0.png") in text


def test_class_names_from_a_file_number_the_folders(tmp_path: Path) -> None:
    listed = tmp_path / "names.txt"
    listed.write_text("\n".join(reversed(LETTERS)) + "\n", "utf-8")
    data = FolderData(fill(tmp_path / "x", "a", "c"), SMALL, 10, class_names=listed)
    assert labels(data) == {"a": 9, "c": 7}
    assert data.class_names == tuple(reversed(LETTERS))
    with pytest.raises(DataError, match="class 'k' is none"):
        FolderData(fill(tmp_path / "y", "a", "k"), SMALL, 10, class_names=listed)


def test_class_names_also_name_folders_that_are_indices(tmp_path: Path) -> None:
    listed = tmp_path / "names.txt"
    listed.write_text("\n".join(LETTERS), "utf-8")
    data = FolderData(fill(tmp_path / "x", "0", "9"), SMALL, 10, class_names=listed)
    assert labels(data) == {"0": 0, "9": 9}
    assert data.class_names == LETTERS


def test_the_models_own_class_names_go_first(tmp_path: Path) -> None:
    data = FolderData(fill(tmp_path, "cat", "dog"), SMALL, 3, own_names=("dog", "emu", "cat"))
    assert labels(data) == {"cat": 2, "dog": 0}


@pytest.mark.parametrize(
    ("own", "folders", "expected"),
    [
        (("Cat", "Dog", "Bird"), ("bird", "cat", "dog"), {"bird": 2, "cat": 0, "dog": 1}),
        (("cat", "dog"), ("Dog", "cat"), {"Dog": 1, "cat": 0}),
        (("dog", "great tit"), ("Great_Tit", "dog"), {"Great_Tit": 1, "dog": 0}),
        (("Cat", "cat"), ("Cat", "cat"), {"Cat": 0, "cat": 1}),
        (("1", "0"), ("0", "1"), {"0": 1, "1": 0}),
    ],
)
def test_own_class_names_are_known_however_they_are_written(
    tmp_path: Path, own: tuple[str, ...], folders: tuple[str, ...], expected: dict[str, int]
) -> None:
    data = FolderData(fill(tmp_path, *folders), SMALL, len(own), own_names=own)
    assert labels(data) == expected
    assert data.class_names == own


def test_folders_that_a_model_calls_otherwise_are_not_ranked(tmp_path: Path) -> None:
    root = fill(tmp_path, "benign", "malignant")
    data = FolderData(root, SMALL, 2, own_names=("melanoma", "nevus"))
    assert not data.labelled
    assert "the model calls its classes 'melanoma', 'nevus'; --class-names FILE" in data.labelling
    assert FolderData(root, SMALL, 2, own_names=("0", "1")).labelled


def test_a_class_name_that_a_model_has_twice_says_which(tmp_path: Path) -> None:
    own = ("crane", "dog", "emu", "crane")
    data = FolderData(fill(tmp_path, "dog", "emu"), SMALL, 4, own_names=own)
    assert labels(data) == {"dog": 1, "emu": 2}
    with pytest.raises(DataError, match=r"'crane' is none .* of which 'crane' is more than one"):
        FolderData(fill(tmp_path, "crane"), SMALL, 4, own_names=own)


def test_indices_that_imagefolder_would_number_otherwise_are_said_to_be(tmp_path: Path) -> None:
    twelve, ten = fill(tmp_path / "a", *map(str, range(12))), fill(tmp_path / "b", "0", "1")
    assert "not the alphabetical order" in FolderData(twelve, SMALL, 12).labelling
    assert "alphabetical" not in FolderData(ten, SMALL, 12).labelling


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(["a", "b", "c"]),
        json.dumps({"2": "c", "0": "a", "1": "b"}),
        json.dumps({"c": 2, "a": 0, "b": 1}),
    ],
)
def test_class_names_may_be_json_in_either_direction(tmp_path: Path, content: str) -> None:
    path = tmp_path / "names.json"
    path.write_text(content, "utf-8")
    assert read_class_names(path, 3) == ("a", "b", "c")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("names.txt", b"a\nb\n", "are 2, but the model has 3 classes"),
        ("names.txt", b"a\nb\nb\n", "have 'b' twice"),
        ("names.txt", b"\xff\xfe\xfd", "cannot be read"),
        ("names.json", b'{"0": "a", "2": "b", "3": "c"}', "indices are not 0 to 2"),
        ("names.json", b"[1, 2, 3]", "neither a list of names"),
        ("names.json", b"{", "cannot be read"),
        ("names.json", b"[" * 100_000, "cannot be read"),
    ],
)
def test_class_names_that_fit_no_model_are_refused(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_class_names(tmp_path / name, 3)


def test_a_labels_file_labels_a_flat_folder(tmp_path: Path) -> None:
    fill(tmp_path, "")
    for name in ("x.png", "y.png"):
        (tmp_path / name).write_bytes((tmp_path / "0.png").read_bytes())
    (tmp_path / "labels.csv").write_text("file,class\n0.png,7\nx.png,2\ny.png,7\n", "utf-8")
    data = FolderData(tmp_path, SMALL, 10)
    found = data.batch([0, 1, 2])[1]
    assert found is not None
    assert found.tolist() == [7, 2, 7]
    assert "'labels.csv'" in data.labelling


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("0.png,a,b\n", "line 1: write file,class"),
        ("0.png,1\n0.png,2\n", "line 2: '0.png' is in two classes"),
        ("0.png,1\nnone.png,2\n", "names 'none.png'"),
    ],
)
def test_a_labels_file_that_does_not_fit_is_refused(
    tmp_path: Path, rows: str, message: str
) -> None:
    fill(tmp_path, "")
    (tmp_path / "labels.csv").write_text(rows, "utf-8")
    with pytest.raises(DataError, match=message):
        FolderData(tmp_path, SMALL, 10)


def test_training_images_inside_those_judged_on_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, "x/a", "x/b")
    with pytest.raises(DataError, match="overlap"):
        Layout.of(tmp_path, tmp_path / "x")


def test_other_training_data_gives_the_class_list(tmp_path: Path) -> None:
    fill(tmp_path / "mine", *LETTERS)
    fill(tmp_path / "judge", "c", "d")
    data = load_data(str(tmp_path / "judge"), tiny_backbone(), train_data=str(tmp_path / "mine"))
    found = data.batch([0, 1])[1]
    assert found is not None
    assert found.tolist() == [2, 3]


@pytest.mark.parametrize("name", ["train_data", "class_names"])
def test_a_named_path_that_is_not_there_is_refused(tmp_path: Path, name: str) -> None:
    fill(tmp_path / "images", *LETTERS)
    with pytest.raises(DataError, match="nowhere"):
        load_data(str(tmp_path / "images"), tiny_backbone(), **{name: str(tmp_path / "nowhere")})


def test_class_names_are_for_folders_only(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has its own classes"):
        load_data("digits", tiny_backbone(), class_names=tmp_path / "names.txt")


def test_a_model_of_features_has_no_labels() -> None:
    found = understand(Source(("a", "b"), "class folders of 'x'"), 0)
    assert found.classes is None
    assert "features" in found.words


def test_names_with_control_characters_are_escaped(tmp_path: Path) -> None:
    evil = "\x1b[31mred\n\udcff"
    fill(tmp_path, evil, "b")
    data = FolderData(tmp_path, SMALL, 2)
    shown = [data.labelling, *(data.class_names or ())]
    with pytest.raises(DataError) as error:
        FolderData(tmp_path / evil / "\x1b[2J", SMALL, 2)
    assert all(text.isprintable() for text in [*shown, str(error.value), data.name])
    assert "\\x1b[31mred\\n\\udcff" in (data.class_names or ())
