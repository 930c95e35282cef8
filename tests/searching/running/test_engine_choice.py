"""Workers take weights and images from the folder that the driver shares."""

import sys
from pathlib import Path

import pytest
import torch

from autotok.config import CompressionConfig
from autotok.searching.running import session as session_module
from autotok.searching.running.engine_choice import ProblemFactory, load_shared, share
from autotok.searching.running.question import Question
from autotok.searching.running.session import build_problem

QUESTION = Question(backbone="tiny", data="digits", budgets=("60%",))


def test_a_worker_maps_the_weights_of_the_driver_and_loads_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = build_problem(QUESTION)
    folder = share(driver, tmp_path / "shared")
    factory = ProblemFactory.of(QUESTION.to_dict(), None, 0, tmp_path, shared=folder)

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a model was loaded although one is shared")

    monkeypatch.setattr(session_module, "load_backbone", refuse)
    worker = factory()
    expected = driver.problem.evaluate(CompressionConfig(), 0, 8)
    assert worker.evaluate(CompressionConfig(), 0, 8) == expected


def test_shared_weights_are_mapped_from_the_file_and_equal(tmp_path: Path) -> None:
    driver = build_problem(QUESTION)
    folder = share(driver, tmp_path / "shared")
    loaded = load_shared(folder)
    assert loaded is not None
    ours, theirs = driver.backbone.state_dict(), loaded[0].state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    if sys.platform == "linux":
        assert str(folder / "model.pt") in Path("/proc/self/maps").read_text("utf-8")


def test_without_a_shared_folder_each_loads_its_own(tmp_path: Path) -> None:
    assert load_shared(None) is None
    assert load_shared(tmp_path) is None
