"""Adapters by one call: trained, written with their scale, taken by `compress`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

import autotok
from autotok.backbones.size_tables import listed_sides
from autotok.backbones.tiny import tiny_backbone
from autotok.errors import AutotokError
from autotok.training.pair_distillation import PairSpec
from autotok.training.size_sandwich import SizesSpec

SHORT = PairSpec(steps=3, batch_size=2, group_width=1, augment="none")


def test_the_file_says_the_scale_and_is_taken_by_compress(tmp_path: Path) -> None:
    told: list[int] = []
    path = autotok.train_adapters(
        "tiny",
        tmp_path / "adapters.safetensors",
        data="digits",
        spec=SHORT,
        changes={"steps": 2, "scale": 0.05},
        on_step=lambda step, loss: told.append(step),
    )
    assert told == [0, 1]
    with safe_open(path, framework="pt") as file:
        said = file.metadata()
        assert "blocks.3.attn.v_tocom.adapter_up.weight" in file.keys()
    assert (said["scale"], said["backbone"]) == ("0.05", "tiny")
    model = autotok.compress(tiny_backbone(), method="tocom", r=2, weights=path)
    assert model.config.options["scale"] == 0.05
    assert model.config.options["adapters"] == str(path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"model": "tinny"}, "tinny"),
        ({"data": "no such folder"}, "no such folder"),
        ({"path": "/dev/null/adapters.safetensors"}, "/dev/null"),
    ],
)
def test_names_are_checked_before_anything_is_loaded(
    arguments: dict[str, str], words: str, tmp_path: Path
) -> None:
    asked = {"model": "tiny", "path": str(tmp_path / "a.safetensors"), "data": "digits"}
    with pytest.raises(AutotokError, match=words):
        autotok.train_adapters(**(asked | arguments))


def trained_at_sizes(folder: Path, **changes: Any) -> Path:
    return autotok.train_sizes(
        "tiny",
        folder / "sizes.safetensors",
        data="digits",
        spec=SizesSpec(image_sizes=(16, 24), layers=(1, 2), batch_size=2),
        changes={"steps": 2, **changes},
    )


def test_sizes_are_trained_into_one_checkpoint(tmp_path: Path) -> None:
    backbone = autotok.load_backbone("tiny", checkpoint=trained_at_sizes(tmp_path))
    assert listed_sides(backbone.weights.state_dict()) == [16, 24]
    with pytest.raises(AutotokError, match="steps must be above 0, got 0"):
        trained_at_sizes(tmp_path, steps=0)


@pytest.mark.parametrize("train", [autotok.train_adapters, autotok.train_sizes])
def test_a_folder_where_a_file_is_to_be_is_told_before_anything_is_loaded(
    train: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autotok.api.adapters.load_backbone", None)
    with pytest.raises(AutotokError, match="is a folder, and a file is to be written there"):
        train("tiny", tmp_path, data="digits")
