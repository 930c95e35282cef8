"""`autotok.run_study`: what cannot be is told first."""

import sys
from pathlib import Path
from typing import Any

import pytest

import autotok
from autotok.errors import CheckpointError, ConfigError, UnknownName

sys.path.insert(0, str(Path(__file__).parents[1] / "studies"))

from published_rows import tiny_study

ASKED: dict[str, Any] = {"data": "digits", "num_images": 20, "device": "cpu"}


def test_what_cannot_be_is_told_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name, out = tiny_study(monkeypatch, tmp_path / "tables"), tmp_path / "out"
    file = tmp_path / "weights.safetensors"
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"only": ["tome"]}, UnknownName, "did you mean 'tome-r2'"),
        ({"checkpoints": {"tinny": file}}, UnknownName, "did you mean 'tiny'"),
        ({"checkpoints": {"tiny": file}}, CheckpointError, "does not exist"),
        ({"num_images": 0}, ConfigError, "num_images is 0"),
        ({"finetune_steps": -1}, ConfigError, "fine-tune steps are -1"),
        ({"precision": "float8"}, UnknownName, "precision 'float8' is unknown"),
    ]
    for changes, kind, message in wrong:
        with pytest.raises(kind, match=message):
            autotok.run_study(name, output=out, **(ASKED | changes))
    file.touch()
    with pytest.raises(ConfigError, match="checkpoints mean nothing without data: autoformer_demo"):
        autotok.run_study(name, output=out, checkpoints={"tiny": file})
    assert not out.exists()


def test_a_device_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="device 'gpu' is unknown"):
        autotok.run_study("survey-2", output=tmp_path / "out", device="gpu")
