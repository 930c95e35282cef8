"""Workers take weights and images from the folder that the driver shares."""

from pathlib import Path

import pytest
from pickles import is_pickle

from autotok.backbones.tiny import tiny_vit
from autotok.config import CompressionConfig
from autotok.errors import ConfigError, UsageError
from autotok.searching.engines.base import Workers
from autotok.searching.running import session as session_module
from autotok.searching.running.engine_choice import ProblemFactory, check_workers, share
from autotok.searching.running.question import Question
from autotok.searching.running.session import build_problem

QUESTION = Question(backbone="tiny", data="digits", budgets=("60%",))


def test_a_worker_maps_the_weights_of_the_driver_and_loads_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = build_problem(QUESTION)
    shared = share(driver, tmp_path / "shared")
    factory = ProblemFactory.of(QUESTION.to_dict(), None, 0, tmp_path, shared=shared)

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a model was loaded although one is shared")

    monkeypatch.setattr(session_module, "load_backbone", refuse)
    worker = factory()
    expected = driver.problem.evaluate(CompressionConfig(), 0, 8)
    assert worker.evaluate(CompressionConfig(), 0, 8) == expected


def test_nothing_in_the_shared_folder_is_a_pickle(tmp_path: Path) -> None:
    shared = share(build_problem(QUESTION), tmp_path / "shared")
    names = {path.name for path in shared.folder.iterdir()}
    assert "weights.safetensors" in names
    assert [path for path in shared.folder.iterdir() if is_pickle(path)] == []
    assert shared.rest is not None


def test_a_model_of_one_s_own_reaches_the_workers_without_a_file_of_code(tmp_path: Path) -> None:
    model = tiny_vit()
    shared = share(build_problem(QUESTION, model), tmp_path / "shared")
    factory = ProblemFactory.of(QUESTION.to_dict(), model, 0, tmp_path, shared=shared)
    assert factory.model is None
    loaded = shared.load()
    assert loaded is not None
    ours, theirs = model.state_dict(), loaded[0].state_dict()
    assert [(tuple(v.shape), v.sum()) for v in ours.values()] == [
        (tuple(v.shape), v.sum()) for v in theirs.values()
    ]


def test_a_model_that_does_not_pickle_is_left_to_each_worker_or_refused(tmp_path: Path) -> None:
    driver, model = build_problem(QUESTION), tiny_vit()
    driver.backbone.hook = lambda: None
    shared = share(driver, tmp_path / "shared")
    assert shared.load() is None
    named = ProblemFactory.of(QUESTION.to_dict(), None, 0, tmp_path, shared=shared)
    assert named().evaluate(CompressionConfig(), 0, 8) is not None
    model.hook = lambda: None
    with pytest.raises(ConfigError, match="model object, which cannot be pickled"):
        ProblemFactory.of(QUESTION.to_dict(), model, 0, tmp_path, shared=shared)


@pytest.mark.parametrize(
    ("workers", "timeout_s", "words"),
    [
        (Workers(0), None, "--workers is 0; it must be at least 1"),
        (Workers(ray_address="auto"), None, "--ray-address needs --engine ray"),
        (Workers(resources={"GPU": 1.0}), None, "resources per trial needs --engine ray"),
        (Workers(engine="ray", resources={"GPU": 0.0}), None, "takes 0 of resource 'GPU'"),
        (Workers(engine="ray"), 3.0, "--trial-timeout works with --engine local"),
        (Workers(engine="rey"), None, "engine 'rey' is unknown"),
    ],
)
def test_engines_that_cannot_be_are_named(
    workers: Workers, timeout_s: float | None, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        check_workers(workers, timeout_s)
