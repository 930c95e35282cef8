"""A fine-tune's checkpoint is read by the guarded reader of weight files."""

import zipfile
from pathlib import Path

import pytest

from autotok.errors import CheckpointError
from autotok.training.checkpoint import read_checkpoint, write_checkpoint


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "finetune.pt"
    write_checkpoint(path, {"config": "a"}, {"step": 7})
    found = read_checkpoint(path, {"config": "a"})
    assert found is not None
    assert found["step"] == 7


def test_a_checkpoint_that_would_grow_on_reading_is_refused(tmp_path: Path) -> None:
    plain, packed = tmp_path / "plain.pt", tmp_path / "packed.pt"
    write_checkpoint(plain, {}, {"step": 7})
    with (
        zipfile.ZipFile(plain) as old,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(CheckpointError, match=r"packed\.pt"):
        read_checkpoint(packed, {})
