"""Writing: whole or not at all."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from autotok.errors import RunDirectoryError
from autotok.files import (
    check_output_file,
    replacing,
    replacing_folder,
    write_state,
    write_text,
)
from autotok.searching.records.rundir import RunDirectory


def test_text_replaces_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "deep" / "a.txt", "one")
    assert write_text(tmp_path / "deep" / "a.txt", "two").read_text() == "two"
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.txt"]


def _folder(path: Path) -> None:
    with replacing_folder(path) as fresh:
        (fresh / "deep").mkdir()
        (fresh / "deep" / "a").write_text("contents")


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_text(path, "contents"),
        lambda path: write_state(path, {"step": 1}),
        lambda path: RunDirectory(path.parent).write_text(path.name, "contents"),
        _folder,
    ],
    ids=["text", "state", "run", "folder"],
)
def test_contents_are_on_the_disk_before_the_name_is(
    write: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, int]] = []
    fsync, replace = os.fsync, os.replace

    def synced(handle: int) -> None:
        done.append(("synced", os.fstat(handle).st_ino))
        fsync(handle)

    def named(source: Path, target: Path) -> None:
        done.append(("named", 0))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", named)
    write(tmp_path / "a")
    files = [p for p in (tmp_path / "a", *(tmp_path / "a").rglob("*")) if p.is_file()]
    assert files
    for file in files:
        assert ("synced", file.stat().st_ino) in done[: done.index(("named", 0))]


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


def test_what_a_killed_writer_left_goes_with_the_next_write(tmp_path: Path) -> None:
    folder = tmp_path / "best"
    with replacing_folder(folder) as fresh:
        (fresh / "a").write_text("old")
    _killed_while_writing(folder, 'fresh.joinpath("b").write_text("half")')
    assert len(list(tmp_path.iterdir())) == 2  # best and the hidden folder
    with replacing_folder(folder) as fresh:
        (fresh / "c").write_text("new")
    assert list(tmp_path.iterdir()) == [folder]
    assert [p.name for p in folder.iterdir()] == ["c"]


def test_a_folder_set_aside_by_a_killed_writer_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / "best"
    with replacing_folder(folder) as fresh:
        (fresh / "a").write_text("old")
    _killed_while_writing(folder, 'os.replace(path, fresh.parent / "old")')
    assert not folder.exists()

    def half() -> None:
        with replacing_folder(folder) as fresh:
            (fresh / "b").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert [p.name for p in folder.iterdir()] == ["a"]


def test_a_folder_that_another_is_still_writing_is_left_alone(tmp_path: Path) -> None:
    with replacing_folder(tmp_path / "best") as fresh:
        (fresh / "a").write_text("mine")
        with replacing_folder(tmp_path / "best") as other:
            (other / "b").write_text("another's")
        assert (fresh / "a").read_text() == "mine"


def _killed_while_writing(folder: Path, step: str) -> None:
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom autotok.files import replacing_folder\n"
        f"path = Path(sys.argv[1])\nwith replacing_folder(path) as fresh:\n    {step}\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], check=False)
    assert done.returncode == -9


def test_a_file_is_written_beside_folders_and_never_onto_one(tmp_path: Path) -> None:
    check_output_file(tmp_path / "new" / "a.bin")
    assert not (tmp_path / "new").exists()
    (tmp_path / "a").mkdir()
    with pytest.raises(RunDirectoryError, match="give the file's own name"):
        check_output_file(tmp_path / "a")
    (tmp_path / "b").write_text("")
    check_output_file(tmp_path / "b")
    check_output_file(tmp_path / "b.PNG", suffix=".png")
    with pytest.raises(RunDirectoryError, match=r"'.*b.xyz' is no name .* one that ends in .png"):
        check_output_file(tmp_path / "b.xyz", suffix=".png")
    with pytest.raises(RunDirectoryError, match="cannot be written"):
        check_output_file(tmp_path / "b" / "c")
