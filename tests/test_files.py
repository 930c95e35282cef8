"""Writing: whole or not at all."""

from pathlib import Path

import pytest

from autotok.errors import RunDirectoryError
from autotok.files import replacing, replacing_folder, write_text


def test_text_replaces_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "deep" / "a.txt", "one")
    assert write_text(tmp_path / "deep" / "a.txt", "two").read_text() == "two"
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.txt"]


def test_a_failure_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.txt", "old")

    def half() -> None:
        with replacing(path) as temporary:
            temporary.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_folder(tmp_path: Path) -> None:
    folder = tmp_path / "best"
    with replacing_folder(folder) as fresh:
        (fresh / "a").write_text("old")

    def half() -> None:
        with replacing_folder(folder) as fresh:
            (fresh / "b").write_text("new")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        half()
    assert [p.name for p in folder.iterdir()] == ["a"]
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunDirectoryError, match=r"file' cannot be written .* choose another"):
        write_text(tmp_path / "file" / "a.txt", "x")
