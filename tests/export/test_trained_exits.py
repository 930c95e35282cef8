"""Heads of exits beside the weights of their backbone."""

import shutil
from pathlib import Path

import pytest
import torch
from early import trained_checkpoint

import autotok
from autotok.backbones.loading import load_backbone
from autotok.errors import CheckpointError, ConfigError
from autotok.export.best_yaml import read_best
from autotok.export.bundle import load_bundle
from autotok.export.readme import readme
from autotok.export.trained_exits import trained_exits, trained_policy
from autotok.export.weights import EXITS


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_checkpoint(tmp_path_factory.mktemp("exits"))


def test_a_checkpoint_without_heads_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"beside '.*w.safetensors' lie no trained heads"):
        trained_policy(tmp_path / "w.safetensors")


def test_heads_come_back_as_they_were_written(checkpoint: Path) -> None:
    heads = trained_exits(checkpoint, load_backbone("tiny").facts)
    assert heads.policy.places == ((0, "linear"), (2, "local-dw"))
    theirs = load_bundle(checkpoint.parent).exits
    assert theirs is not None
    assert torch.equal(next(heads.parameters()), next(theirs.parameters()))


def test_a_bundle_of_exits_says_that_its_heads_are_trained_and_offers_no_other_weights(
    checkpoint: Path,
) -> None:
    path = checkpoint.parent / "config.yaml"
    assert "It has trained heads of exits; its weights lie" in path.read_text()
    told = readme(read_best(path), {}, False, {"ok": False, "max_abs_diff": 1.0})
    assert "has trained heads of exits: weights other than these do not fit it." in told
    assert "config.yaml instead" not in told
    with pytest.raises(ConfigError, match=r"' has trained heads of exits, so it needs its own"):
        autotok.compress(load_backbone("tiny"), path)
    with pytest.raises(ConfigError, match=r"' has trained heads of exits, so its weights fit no"):
        load_bundle(path, checkpoint=Path("mine.safetensors"))


def test_a_bundle_of_exits_without_its_heads_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    text = (checkpoint.parent / "config.yaml").read_text()
    (tmp_path / "best.yaml").write_text(text)
    shutil.copy(checkpoint, tmp_path)
    with pytest.raises(CheckpointError, match=f"'{tmp_path / EXITS}'"):
        load_bundle(tmp_path / "best.yaml")
