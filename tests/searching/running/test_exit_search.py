"""Exits as something a search proposes: heads come with the checkpoint, thresholds from images."""

import dataclasses
from pathlib import Path

import pytest
import torch
from early import trained_checkpoint

import autotok
from autotok.errors import ConfigError
from autotok.exits import parse_exits
from autotok.searching.proposing.repair import repair
from autotok.searching.running import model_worker
from autotok.searching.running.opening import open_search
from autotok.searching.running.question import Question, check_names
from autotok.searching.running.session import Session, build_problem
from autotok.searching.space.problem import to_score
from autotok.searching.space.settings import FidelityPlan, SearchSettings

ANSWERS = ("none", "linear+local-dw@0,2", "local-dw@2", "linear@0")
SPACE = "methods: [topk]\nexits: [none, 'linear+local-dw@0,2', local-dw@2, linear@0]\n"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_checkpoint(tmp_path_factory.mktemp("exits"))


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("space") / "early.yaml"
    path.write_text(SPACE)
    return path


@pytest.fixture(scope="module")
def session(checkpoint: Path, space: Path) -> Session:
    return build_problem(
        Question(
            "tiny",
            checkpoint=str(checkpoint),
            data="digits",
            budgets=("80%",),
            space=str(space),
            device="cpu",
            precision="float32",
        )
    )


@pytest.mark.parametrize("sampler", ["auto", "tpe"])
def test_a_search_meets_the_budget_by_stopping_images(
    session: Session, tmp_path: Path, sampler: str
) -> None:
    problem = session.problem
    settings = SearchSettings(n_trials=8, sampler=sampler)
    search = open_search(settings, problem, tmp_path / "log", plan=FidelityPlan(32, 32, 32))
    for _ in range(8):
        job = search.ask()
        assert job is not None
        search.advance(job.number, problem.evaluate(job.config, job.start, job.stop), 0.1)
    stopping = [r for r in search.records if r.config and r.config.exits and r.score]
    assert stopping
    assert {r.config.method for r in stopping if r.config} == {"none", "topk"}
    for record in stopping:
        assert record.config is not None
        assert record.config.exits is not None
        assert record.config.exits.threshold
        assert record.costs is not None
        assert record.score is not None
        assert record.costs.macs == round(record.score.macs_mean or 0)


def test_the_mean_cost_of_held_out_images_is_what_was_asked(session: Session) -> None:
    problem = session.problem
    params = problem.space.encode("none", (), (), problem.facts, exits="linear+local-dw@0,2")
    found = repair(problem.space.decode(params, problem.facts), 1.0, problem)
    assert found.config is not None
    assert found.costs is not None
    assert found.costs.macs == int(problem.budgets[0].limit)
    score = to_score(problem.evaluate(found.config, 0, problem.total_images))
    assert score.macs_mean is not None
    assert score.macs_std is not None
    # the training images' mean stays two of its standard errors below, these have one of their own
    error = score.macs_std * (1 / 256 + 1 / score.num_images) ** 0.5
    assert found.costs.macs - 6 * error < score.macs_mean < found.costs.macs + 2 * error


def test_what_is_found_once_serves_every_exit_and_threshold(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, worker = session.problem, session.worker
    first = problem.space.encode("none", (), (), problem.facts, exits="linear@0")
    shape = problem.space.decode(first, problem.facts)
    one, other = (repair(shape, fraction, problem).config for fraction in (0.9, 0.4))
    assert one is not None
    assert other is not None
    worker.compressed(one)
    monkeypatch.setattr(model_worker, "recorded_on", None)
    policy = worker.compressed(other).config.exits
    assert policy is not None
    before = worker.compressed(one).config.exits
    assert before is not None
    assert policy.threshold < before.threshold  # cheaper: images stop sooner


def test_reductions_stay_behind_exits_that_need_the_whole_grid(session: Session) -> None:
    problem = session.problem
    params = problem.space.encode("topk", (0,), (0.5,), problem.facts, exits="linear+local-dw@0,2")
    assert params["first_layer"] == 3
    assert params["mode"] == "plug-in"


def test_exits_are_plugged_in_only_and_never_fine_tuned(session: Session) -> None:
    space = dataclasses.replace(session.problem.space, mode=("plug-in", "retrain"))
    facts = session.problem.facts
    assert space.encode("topk", (3,), (0.5,), facts, exits="linear@0")["mode"] == "plug-in"
    assert space.exits_of("none") == ANSWERS[1:]
    assert space.exits_of("ats") == ("none",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (SPACE + "mode: [retrain]\n", "searches exits and mode retrain alone"),
        (SPACE + "formats: [float32, int8]\n", "searches exits and formats float32, int8"),
        (SPACE + "image_size: [32]\n", "searches exits and image_size"),
        (SPACE + "subnet: search\n", "searches exits and subnet search"),
        ("exits: [vit@1]\n", r"exit vit@1 has no trained head; trained are linear@0, local-dw@2"),
        ("exits: [none]\n", "exits name no exit"),
        ("exits: [linear]\n", "exits 'linear' are not understood"),
    ],
)
def test_a_space_of_exits_that_cannot_be_is_refused(
    checkpoint: Path, tmp_path: Path, text: str, words: str
) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(text)
    question = Question("tiny", checkpoint=str(checkpoint), data="digits", space=str(path))
    with pytest.raises(ConfigError, match=words):
        build_problem(question)


def test_untrained_exits_are_refused_before_anything_is_loaded(space: Path) -> None:
    with pytest.raises(ConfigError, match=f"'{space}' searches exits, whose heads have to be"):
        check_names(Question("no such model", space=str(space)))


def test_exits_that_wait_for_a_threshold_say_so(session: Session) -> None:
    policy = dataclasses.replace(parse_exits("linear@1"), threshold=(), mean_macs=7)
    model = autotok.compress(
        session.backbone, autotok.CompressionConfig(exits=policy), untrained=True
    ).eval()
    with pytest.raises(ConfigError, match="shall cost 7 multiply-accumulates on average"):
        model(torch.zeros(1, *session.backbone.facts.image_shape))
