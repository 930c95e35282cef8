"""The folder of a study keeps to its question, and damaged files are told in a sentence."""

import dataclasses
import json
from pathlib import Path

import pytest

from autotok.errors import RunDirectoryError
from autotok.studies.study_folder import OK, StudyFolder, StudyQuestion

ASKED = StudyQuestion("tiny", "digits", "", 20, 0, "auto")


def test_rows_that_ran_are_read_back_and_others_are_not(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, ASKED)
    assert folder.read() == {}
    ran, failed = {"row": "a", "status": OK, "value": "1"}, {"row": "b", "status": "not run: no"}
    folder.write([ran, failed], "# table\n")
    read = folder.read()
    assert list(read) == ["a"]
    assert read["a"]["value"] == "1"
    assert (tmp_path / "table.md").read_text("utf-8") == "# table\n"


def test_another_question_is_refused_with_what_the_folder_holds(tmp_path: Path) -> None:
    StudyFolder(tmp_path, ASKED).begin()
    StudyFolder(tmp_path, ASKED)
    with pytest.raises(RunDirectoryError, match="holds a study of num_images 20, not of what is"):
        StudyFolder(tmp_path, dataclasses.replace(ASKED, num_images=30))


def test_other_weights_are_refused_where_rows_ran_on_them(tmp_path: Path) -> None:
    mine = dataclasses.replace(ASKED, checkpoints={"tiny": "a1"}, class_names="b2")
    folder = StudyFolder(tmp_path, mine)
    folder.begin()
    folder.write([{"row": "a", "status": OK, "backbone": "tiny"}], "# table\n")
    StudyFolder(tmp_path, dataclasses.replace(mine, checkpoints={"tiny": "a1", "other": "c3"}))
    for weights in ({"tiny": "c3"}, {}):
        with pytest.raises(RunDirectoryError, match=r"holds a study of checkpoints \{'tiny': 'a1'"):
            StudyFolder(tmp_path, dataclasses.replace(mine, checkpoints=weights))
    with pytest.raises(RunDirectoryError, match="holds a study of class_names 'b2'"):
        StudyFolder(tmp_path, dataclasses.replace(mine, class_names=""))


def test_a_folder_of_an_earlier_version_is_held_to_what_it_says(tmp_path: Path) -> None:
    plain = {k: v for k, v in vars(ASKED).items() if k not in ("checkpoints", "class_names")}
    (tmp_path / "study.json").write_text(json.dumps(plain), "utf-8")
    StudyFolder(tmp_path, dataclasses.replace(ASKED, checkpoints={"tiny": "a1"}, class_names="b2"))


def test_a_folder_of_images_is_the_same_by_any_of_its_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    StudyFolder(tmp_path, dataclasses.replace(ASKED, data="photos")).begin()
    StudyFolder(tmp_path, dataclasses.replace(ASKED, data=str(tmp_path / "photos")))
    with pytest.raises(RunDirectoryError, match="holds a study of data 'photos'"):
        StudyFolder(tmp_path, dataclasses.replace(ASKED, data="elsewhere/photos"))


def test_damaged_results_are_one_sentence(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, ASKED)
    (tmp_path / "results.csv").write_text("row,top1\na,1\n")
    with pytest.raises(RunDirectoryError, match=r"results.csv' does not have the columns"):
        folder.read()
    (tmp_path / "results.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(RunDirectoryError, match=r"results.csv' cannot be read"):
        folder.read()
