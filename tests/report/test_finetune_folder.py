"""A fine-tune's folder: who may begin in it, and what it says it was asked."""

import dataclasses
import json
from pathlib import Path

import pytest

from autotok.config import CompressionConfig, Reduction
from autotok.errors import ConfigError, RunDirectoryError
from autotok.exits import ExitPolicy
from autotok.finetune_spec import FineTuneSpec
from autotok.report.finetune_folder import (
    QUESTION,
    FineTuneQuestion,
    check_same_start,
    fit_folder,
    fresh_finetune_folder,
    read_question,
    remove_files,
)


def test_a_folder_takes_one_fine_tune_and_lets_it_go_on(tmp_path: Path) -> None:
    assert fit_folder(tmp_path, resume=False) == tmp_path
    (tmp_path / QUESTION).write_text("{}")
    with pytest.raises(RunDirectoryError, match="unfinished fine-tune; go on with --resume"):
        fit_folder(tmp_path, resume=False)
    assert fit_folder(tmp_path, resume=True) == tmp_path
    (tmp_path / "best.yaml").touch()
    with pytest.raises(RunDirectoryError, match=r"holds a best\.yaml already"):
        fit_folder(tmp_path, resume=True)


def test_what_was_asked_comes_back_as_arguments(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="no fine-tune to go on with"):
        read_question(tmp_path)
    text = '{"data": "demo", "num_images": 8, "precision": "auto", "spec": {"length": "3 steps"}}'
    (tmp_path / QUESTION).write_text(text[:-1] + ', "checkpoint": "own.pth"}')
    found = read_question(tmp_path)
    assert (found["num_images"], found["spec"].length) == (8, "3 steps")
    assert found["checkpoint"] == Path("own.pth")
    assert "model" not in found  # an earlier version kept none


def test_what_was_to_be_trained_is_kept_and_another_one_is_refused(tmp_path: Path) -> None:
    config = CompressionConfig("topk", (Reduction(3, 0.5),), exits=ExitPolicy((1,), ("linear",)))
    asked = FineTuneQuestion("demo", 8, "auto", FineTuneSpec(), config=config)
    check_same_start(tmp_path, asked)  # nothing was begun yet
    plain = {**vars(asked), "spec": {}, "config": config.to_dict()}
    (tmp_path / QUESTION).write_text(json.dumps(plain))
    assert read_question(tmp_path)["model"] == config
    check_same_start(tmp_path, asked)
    other = dataclasses.replace(asked, config=CompressionConfig("topk", (Reduction(3, 0.4),)))
    read = dataclasses.replace(asked, best="/b/best.yaml")  # its weights may be others
    for changed in (other, read):
        with pytest.raises(ConfigError, match="to go on with it, say nothing of what is to be"):
            check_same_start(tmp_path, changed)
    (tmp_path / QUESTION).write_text(json.dumps({**plain, "best": "/a/best.yaml"}))
    assert read_question(tmp_path)["model"] == Path("/a/best.yaml")
    check_same_start(tmp_path, read)  # it may have been moved


def test_the_same_configuration_always_means_the_same_folder() -> None:
    config = CompressionConfig("topk", (Reduction(3, 0.5),))
    assert fresh_finetune_folder(config, "tiny") == fresh_finetune_folder(config, "tiny")
    other = CompressionConfig("topk", (Reduction(3, 0.6),))
    assert fresh_finetune_folder(config, "tiny") != fresh_finetune_folder(other, "tiny")


def test_removing_what_is_not_there_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    remove_files(tmp_path, "a", "b")
    remove_files(None, "a")
    assert not list(tmp_path.iterdir())
