"""The run directory: whole files only, and one clear sentence for every trouble."""

import errno
import os
from pathlib import Path

import pytest

from autotok.errors import ConfigError, RunDirectoryError
from autotok.searching.records.rundir import RunDirectory


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunDirectoryError, match="is not empty already; continue it with"):
        RunDirectory.create(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_an_existing_run_offers_resume(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    run.write_config({"search": {}})
    run.release()
    with pytest.raises(RunDirectoryError, match=r"holds a run already; .*autotok resume"):
        RunDirectory.create(tmp_path / "run")


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(RunDirectoryError, match="is a file; choose another --output"):
        RunDirectory.create(tmp_path / "run")


def test_a_run_in_use_is_refused(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    with pytest.raises(RunDirectoryError, match="in use by another process"):
        RunDirectory(tmp_path / "run").claim()
    run.release()
    again = RunDirectory(tmp_path / "run")
    again.claim()
    again.release()


def test_no_run_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="holds no run"):
        RunDirectory.open(tmp_path)


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDirectory.create(tmp_path / "run")
    run.write_text("a.txt", "old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(RunDirectoryError, match="full disk; make room and continue"):
        run.write_text("a.txt", "new")
    assert (run.path / "a.txt").read_text() == "old"
    assert sorted(p.name for p in run.path.iterdir()) == [".lock", "a.txt"]
    run.release()


def test_read_only_is_said_so(tmp_path: Path) -> None:
    trouble = RunDirectory(tmp_path).trouble(OSError(errno.EROFS, "Read-only file system"))
    assert "read-only or not yours" in str(trouble)
    other = RunDirectory(tmp_path).trouble(OSError(errno.EIO, "Input/output error"))
    assert "cannot be used: Input/output error" in str(other)


def test_the_configuration_round_trips_and_a_later_version_is_refused(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    run.write_config({"search": {"seed": 3}, "budgets": ["50%"]})
    assert run.read_config() == {"search": {"seed": 3}, "budgets": ["50%"]}
    run.write_text("config.yaml", "version: 9\n")
    with pytest.raises(ConfigError, match=r"not of version 1 or 2"):
        run.read_config()
    run.write_text("config.yaml", "a: [")
    with pytest.raises(ConfigError, match=r"config.yaml:1: is not valid YAML"):
        run.read_config()
    run.release()


def test_a_run_of_version_1_is_read_by_what_its_keys_are_called_since(tmp_path: Path) -> None:
    """There `device` was what finalists are timed on, and `runs_on` where models run."""
    run = RunDirectory(tmp_path)
    run.write_text("config.yaml", "version: 1\nquestion: {device: local, runs_on: 'cuda:1'}\n")
    assert run.read_config()["question"] == {"measure_on": "local", "device": "cuda:1"}
    run.write_text("config.yaml", "version: 1\nquestion: {device: 'ssh://board'}\n")
    assert run.read_config()["question"] == {"measure_on": "ssh://board"}
    run.write_config(run.read_config())
    assert run.read_config()["question"] == {"measure_on": "ssh://board"}
