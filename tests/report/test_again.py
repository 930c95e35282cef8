"""The command that asks a run's question again, and the one that goes on with it."""

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from autotok.cli import runs
from autotok.report.again import (
    ASIDE,
    IN_PYTHON,
    LISTED,
    QUESTION_FLAGS,
    SETTING_FLAGS,
    resume_again,
    search_again,
)
from autotok.searching.running.question import Question
from autotok.searching.space.settings import SearchSettings

ASKED = Question(
    "tiny",
    checkpoint="/w/best model.pth",
    image_size=64,
    data="digits",
    train_data="/train",
    class_names="/names.txt",
    budgets=("60%", "70%latency"),
    flops_convention="macs-noattn",
    target="jetson-nx",
    space="mine.yaml",
    methods=("tome", "evit"),
    formats=("float32", "int8"),
    image_sizes=(24, 32),
    quality="own_loss",
    subnet="search",
    batch=8,
    max_images=400,
    measure_on="local?runtime=onnxruntime",
    device="cpu",
    precision="float32",
    evaluator="my:judge",
)
EFFORT = SearchSettings(
    n_trials=7,
    timeout_s=1234567.5,
    seed=3,
    sampler="tpe",
    objectives=("quality", "latency"),
    min_quality=12.5,
    retrain_trials=0,
    trial_timeout_s=9.0,
)


def parsed(command: str) -> dict[str, Any]:
    """What the command line makes of it."""
    program, verb, *arguments = shlex.split(command)
    assert (program, verb) == ("autotok", "search")
    search = typer.main.get_command(runs.app).commands["search"]  # type: ignore[attr-defined]
    given: dict[str, Any] = search.make_context("search", arguments).params
    return given


def test_the_command_asks_for_everything_that_the_run_was_asked() -> None:
    given = parsed(search_again(ASKED.to_dict(), EFFORT, warm_start=("/runs/a b", "/runs/c")))
    for name in set(QUESTION_FLAGS) - {"backbone"}:
        assert str(given[name]) == str(getattr(ASKED, name)), name
    for name in LISTED:
        assert given[name] == ",".join(map(str, getattr(ASKED, name)))
    assert list(given["budget"]) == list(ASKED.budgets)
    assert list(given["backbone"]) == ["tiny"]
    for name, flag in SETTING_FLAGS.items():
        assert given[flag.replace("-", "_")] == getattr(EFFORT, name), name
    assert list(given["objective"]) == list(EFFORT.objectives)
    assert list(given["warm_start"]) == [Path("/runs/a b"), Path("/runs/c")]


def test_every_field_is_in_the_command_or_has_a_reason_not_to_be() -> None:
    said = {*QUESTION_FLAGS, *LISTED, "backbones", "budgets", *ASIDE}
    assert {f.name for f in dataclasses.fields(Question)} - {"_"} <= said
    said = {*SETTING_FLAGS, "objectives", "join", *IN_PYTHON, *ASIDE}
    assert {f.name for f in dataclasses.fields(SearchSettings)} <= said
    for name in (*IN_PYTHON, *ASIDE):
        assert not {name} & {*QUESTION_FLAGS, *LISTED, *SETTING_FLAGS}


def test_a_batch_that_meant_nothing_is_left_out() -> None:
    asked = Question(batch=8, budgets=("60%",))  # as an earlier version let one ask
    assert "--batch" not in search_again(asked.to_dict(), EFFORT)
    for more in ({"target": "jetson-nx"}, {"measure_on": "local"}):
        assert "--batch 8" in search_again({**asked.to_dict(), **more}, EFFORT)


def test_several_backbones_and_no_time_limit_are_said() -> None:
    both = dataclasses.replace(ASKED, backbone="b", backbones=("b", "a"), checkpoint=None)
    given = parsed(search_again(both.to_dict(), dataclasses.replace(EFFORT, timeout_s=None)))
    assert list(given["backbone"]) == ["b", "a"]
    assert given["timeout"] == 0.0


@pytest.mark.parametrize(
    ("settings", "embedded", "why"),
    [
        (EFFORT, True, "the model was a Python object"),
        (dataclasses.replace(EFFORT, sampler="<Mine>"), False, "the sampler was a Python object"),
        (dataclasses.replace(EFFORT, images_final=90), False, "images_final=90 can be asked for"),
        (
            dataclasses.replace(EFFORT, storage="sqlite:///x", study="s", join=True),
            False,
            "it went on with what study 's' held already",
        ),
    ],
)
def test_where_no_command_asks_it_again_that_is_said_instead(
    settings: SearchSettings, embedded: bool, why: str
) -> None:
    said = search_again(ASKED.to_dict(), settings, embedded=embedded)
    assert said.startswith("No command asks this again: ")
    assert why in said
    assert "autotok search " not in said


def test_what_began_with_a_python_object_is_gone_on_with_in_python() -> None:
    folder = Path("runs/a b")
    assert resume_again(folder, ASKED, EFFORT, embedded=False, more=" --trials 9") == (
        "autotok resume 'runs/a b' --trials 9"
    )
    asked = dataclasses.replace(ASKED, evaluator="<function>")
    assert resume_again(folder, asked, EFFORT, embedded=True) == (
        "in Python, with the model and the evaluator that it began with:"
        " autotok.resume('runs/a b', model=model, evaluator=evaluator)"
    )
