"""The folder of a study keeps to its question, and damaged files are told in a sentence."""

import dataclasses
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


def test_damaged_results_are_one_sentence(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, ASKED)
    (tmp_path / "results.csv").write_text("row,top1\na,1\n")
    with pytest.raises(RunDirectoryError, match=r"results.csv' does not have the columns"):
        folder.read()
    (tmp_path / "results.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(RunDirectoryError, match=r"results.csv' cannot be read"):
        folder.read()
