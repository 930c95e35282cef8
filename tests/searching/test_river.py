"""Trials are followed from ask to tell: CONTRIBUTING names every file of the room they pass."""

import dataclasses
import re
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import CodeType, FrameType

import pytest
from problems import FakeEvaluator, fake_problem, vit_facts
from test_subnets import joint_problem

from autotok.searching.proposing.proposals import Proposals
from autotok.searching.running.loop import Search
from autotok.searching.running.opening import run_search
from autotok.searching.running.question import Question
from autotok.searching.running.session import build_problem
from autotok.searching.space.problem import Problem
from autotok.searching.space.settings import SearchSettings
from autotok.searching.space.space_file import load_space

ROOT = Path(__file__).parents[2]
ROOM = ROOT / "autotok" / "searching"
SECTION = (ROOT / "CONTRIBUTING.md").read_text("utf-8").partition("## The river")[2]
SECTION = SECTION.partition("\n## ")[0]
RIVER = re.findall(r"^\d+\. `(.+?\.py)`", SECTION, re.M)
NAMED = set(re.findall(r"`(\w+/\w+\.py)`", SECTION.partition("The nouns")[2]))
pytestmark = pytest.mark.usefixtures("few_candidates")
SETTINGS = SearchSettings(n_trials=3, images_few=4, images_more=8, images_final=8)


class Follower:
    """Notes whose functions run between an ask and the tell that answers it."""

    def __init__(self) -> None:
        self._paths: set[str] = set()
        self._asks: set[CodeType] = {Search.ask.__code__, Search.ask_promotion.__code__}
        self._follows = False

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if event == "call":
            self._follows = self._follows or code in self._asks
            if self._follows:
                self._paths.add(code.co_filename)
        elif event == "return" and code is Proposals.tell.__code__:
            self._follows = False

    @property
    def files(self) -> set[str]:
        """Those of the room."""
        passed = map(Path, self._paths)
        return {p.relative_to(ROOM).as_posix() for p in passed if p.is_relative_to(ROOM)}


def followed(make: Callable[[], Problem], folder: Path, settings: SearchSettings) -> set[str]:
    """Files of the room that the trials of a search pass, which runs here."""
    problem, follower = make(), Follower()
    sys.setprofile(follower)
    run_search(settings, problem, folder)
    sys.setprofile(None)
    return follower.files


def passed(
    make: Callable[[], Problem], folder: Path, settings: SearchSettings = SETTINGS
) -> set[str]:
    """The same, in a process of its own, in which no other test has traced anything."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        files = pool.submit(followed, make, folder, settings).result()
    assert files
    return files


def real() -> Problem:
    question = Question(backbone="tiny", data="digits", budgets=("70%",))
    return build_problem(question).problem


def fine_tuned() -> Problem:
    evaluator = FakeEvaluator(vit_facts())
    space = dataclasses.replace(load_space("default"), mode=("plug-in", "retrain"))
    return fake_problem(space=space, evaluate=evaluator, finetune=evaluator.finetune)


def predicted() -> Problem:
    return fake_problem(
        "70%, 90%latency", predict=lambda config: {"latency_ms": 10.0 - len(config.reductions)}
    )


def test_the_river_is_eight_files_of_a_readable_size() -> None:
    assert len(RIVER) == len(set(RIVER)) == 8
    sizes = {name: len((ROOM / name).read_text("utf-8").splitlines()) for name in RIVER}
    assert not {name: size for name, size in sizes.items() if size >= 400}


@pytest.mark.slow
def test_a_trial_of_a_real_model_passes_all_of_the_river(tmp_path: Path) -> None:
    files = passed(real, tmp_path / "run")
    assert set(RIVER) <= files <= set(RIVER) | NAMED


@pytest.mark.parametrize(
    "make",
    [*(pytest.param(m, marks=pytest.mark.slow) for m in (fine_tuned, joint_problem)), predicted],
)
def test_no_trial_passes_a_file_that_is_not_named(
    make: Callable[[], Problem], tmp_path: Path
) -> None:
    settings = dataclasses.replace(SETTINGS, n_trials=8, retrain_trials=2)
    assert passed(make, tmp_path / "run", settings) <= set(RIVER) | NAMED


def test_every_file_named_is_there() -> None:
    assert NAMED
    assert all((ROOM / name).is_file() for name in NAMED | set(RIVER))
