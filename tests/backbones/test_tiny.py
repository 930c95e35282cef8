"""The tiny backbone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from autotok.backbones.loading import (
    load_backbone,
)
from autotok.errors import CheckpointError


def test_tiny_reads_the_checkpoint_that_it_is_given(tmp_path: Path) -> None:
    backbone = load_backbone("tiny")
    other = {k: v + 1.0 for k, v in backbone.weights.state_dict().items()}
    torch.save(other, tmp_path / "other.pth")
    again = load_backbone("tiny", checkpoint=tmp_path / "other.pth")
    assert all(torch.equal(v, other[k]) for k, v in again.weights.state_dict().items())
    torch.save({"head.weight": other["head.weight"]}, tmp_path / "part.pth")
    with pytest.raises(CheckpointError, match="'cls_token' is missing"):
        load_backbone("tiny", checkpoint=tmp_path / "part.pth")
