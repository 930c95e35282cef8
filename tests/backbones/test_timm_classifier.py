"""timm's other classifiers: which they are, and what they say about their images."""

from pathlib import Path

import pytest
import torch

from autotok.backbones.timm_classifier import is_other_timm, timm_classifier
from autotok.errors import CheckpointError


@pytest.mark.parametrize(
    ("name", "other"), [("resnet18.a1_in1k", True), ("deit_tiny_patch16_224", False), ("x", False)]
)
def test_other_models_are_those_that_no_adapter_runs(name: str, other: bool) -> None:
    assert is_other_timm(name) is other


def test_a_files_head_says_how_many_classes(tmp_path: Path) -> None:
    import timm

    torch.save(timm.create_model("test_resnet", num_classes=7).state_dict(), tmp_path / "c.pth")
    model, classes, shape, how = timm_classifier("test_resnet", checkpoint=tmp_path / "c.pth")
    assert (classes, model.training) == (7, False)
    assert len(shape) == len(how["mean"]) == 3


def test_weights_that_cannot_be_fetched_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HOME", "/nowhere")
    with pytest.raises(CheckpointError, match="teacher 'resnet18' could not be fetched"):
        timm_classifier("resnet18")
