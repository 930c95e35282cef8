"""Weights of a fine-tuned model go to a file and come back for the same configuration only."""

import errno
import os
from pathlib import Path

import pytest
import torch
from tiny_student import pruned, same, student, weights

from autotok.backbones.timm_vit import TimmViT
from autotok.backbones.tiny import tiny_backbone, tiny_vit
from autotok.errors import CheckpointError, RunDirectoryError, UnsupportedBackbone
from autotok.training.student import load_weights, save_weights, student_of


def test_weights_come_back_to_the_bit(tmp_path: Path) -> None:
    model = student()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.rand_like(parameter))
    save_weights(model, tmp_path / "w.safetensors")
    fresh = load_weights(student(), tmp_path / "w.safetensors")
    assert same(weights(model), weights(fresh))
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_weights_of_another_configuration_are_refused(tmp_path: Path) -> None:
    path = save_weights(student("evit"), tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=f"belong to configuration {pruned().config_id}"):
        load_weights(student("topk"), path)


def test_weights_of_another_backbone_are_refused_naming_the_tensor(tmp_path: Path) -> None:
    path = save_weights(student(), tmp_path / "w.safetensors")
    other = student_of(TimmViT(tiny_vit(width=96), name="wide"), pruned())
    with pytest.raises(CheckpointError, match="do not fit the model"):
        load_weights(other, path)


@pytest.mark.parametrize("content", [None, b"", b"\x10\x00\x00\x00\x00\x00\x00\x00garbage"])
def test_missing_and_damaged_weights_are_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "w.safetensors"
    if content is not None:
        path.write_bytes(content)
    words = "do not exist" if content is None else "cannot be read"
    with pytest.raises(CheckpointError, match=words):
        load_weights(student(), path)


def test_a_full_disk_gives_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(RunDirectoryError, match="No space left on device"):
        save_weights(student(), tmp_path / "w.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_backbone_that_cannot_be_copied_is_refused_in_one_sentence() -> None:
    import threading

    backbone = tiny_backbone()
    backbone.model.lock = threading.Lock()
    with pytest.raises(UnsupportedBackbone, match="cannot be copied for fine-tuning"):
        student_of(backbone, pruned())


def test_a_frozen_half_precision_backbone_becomes_a_trainable_full_precision_student() -> None:
    backbone = tiny_backbone().half().requires_grad_(False)
    model = student_of(backbone, pruned())
    assert all(p.requires_grad and p.dtype == torch.float32 for p in model.parameters())
    assert all(p.dtype == torch.float16 for p in backbone.parameters())
