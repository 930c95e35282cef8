"""Asked to stop, a search finishes what is in hand; a trial that ends its process ends alone."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from problems import FakeEvaluator, FakeTally, fake_problem, vit_facts

from autotok.config import CompressionConfig
from autotok.interrupts import SIGNALS, Interrupted
from autotok.searching.running.events import Event, FinalEvaluation, Working
from autotok.searching.running.opening import resume_search, run_search
from autotok.searching.running.search_result import SearchResult
from autotok.searching.space.settings import SearchSettings

HERE = Path(__file__).parent
SETTINGS = SearchSettings(n_trials=10, seed=5)
pytestmark = pytest.mark.usefixtures("heard")


def at_call(number: int, act: Callable[[], None]) -> Callable[..., FakeTally]:
    """An evaluator that acts while it is in its `number`-th call."""
    good = FakeEvaluator(vit_facts())

    def evaluate(config: CompressionConfig, begin: int, stop: int) -> FakeTally:
        tally = good(config, begin, stop)
        if len(good.calls) == number:
            act()
        return tally

    return evaluate


def send(number: signal.Signals, times: int = 1) -> Callable[[], None]:
    def act() -> None:
        for _ in range(times):
            os.kill(os.getpid(), number)

    return act


def outline(result: SearchResult) -> list[object]:
    front = [(r.config, r.score) for r in result.front]
    return [*front, *((r.params, r.state, r.score) for r in result.records)]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_lets_the_trial_in_hand_finish_and_a_resume_goes_on(
    number: signal.Signals, tmp_path: Path
) -> None:
    said: list[str] = []

    def observe(event: Event) -> None:
        said.append(event.text if isinstance(event, Working) else "")

    problem = fake_problem(evaluate=at_call(7, send(number)))
    with pytest.raises(Interrupted, match=number.name):
        run_search(SETTINGS, problem, tmp_path / "run", observe)
    assert any(line.startswith(f"{number.name}: stopping after the trial") for line in said)
    rows = (tmp_path / "run" / "trials.csv").read_text().count("\n") - 1
    again = FakeEvaluator(vit_facts())
    resumed = resume_search(fake_problem(evaluate=again), tmp_path / "run")
    done_before = {r.config.config_id for r in resumed.records[:rows] if r.config}
    few = {config for config, begin, stop in again.calls if stop - begin <= 64}
    assert not few & done_before  # the trial that was in hand was finished, not begun again
    assert outline(resumed) == outline(run_search(SETTINGS, fake_problem(), tmp_path / "whole"))


def test_the_second_signal_stops_at_once_and_a_resume_still_ends_the_same(tmp_path: Path) -> None:
    problem = fake_problem(evaluate=at_call(7, send(signal.SIGTERM, times=2)))
    with pytest.raises(Interrupted, match="SIGTERM"):
        run_search(SETTINGS, problem, tmp_path / "run")
    resumed = resume_search(fake_problem(), tmp_path / "run")
    assert outline(resumed) == outline(run_search(SETTINGS, fake_problem(), tmp_path / "whole"))


def test_a_signal_in_the_last_word_keeps_what_was_judged(tmp_path: Path) -> None:
    finals: list[FinalEvaluation] = []

    def observe(event: Event) -> None:
        if isinstance(event, FinalEvaluation):
            finals.append(event)
            if len(finals) == 2:
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="SIGINT"):
        run_search(SETTINGS, fake_problem(), tmp_path / "run", observe)
    assert len(finals) == 2
    again = FakeEvaluator(vit_facts())
    resumed = resume_search(fake_problem(evaluate=again), tmp_path / "run")
    assert outline(resumed) == outline(run_search(SETTINGS, fake_problem(), tmp_path / "whole"))


class Odd(BaseException):
    """As asyncio's CancelledError or pytest's outcomes are: no Exception."""


@pytest.mark.parametrize("error", [SystemExit(3), SystemExit(), Odd("gave up"), GeneratorExit()])
def test_whatever_a_method_raises_is_a_failed_trial_with_its_reason(
    error: BaseException, tmp_path: Path
) -> None:
    def act() -> None:
        raise error

    problem = fake_problem(evaluate=at_call(5, act))
    result = run_search(SETTINGS, problem, tmp_path / "run")
    failed = [r for r in result.records if r.state == "failed"]
    assert [r.reason for r in failed] == [f"{type(error).__name__}: {str(error) or 'no message'}"]
    assert result.best is not None


@pytest.mark.crash
def test_a_trial_in_which_the_process_died_twice_fails_and_the_search_goes_on(
    tmp_path: Path,
) -> None:
    whole = run_search(SearchSettings(n_trials=18, seed=5), fake_problem(), tmp_path / "whole")
    deadly = next(r for r in whole.records[4:] if r.state == "complete" and r.config)
    assert deadly.config is not None
    folder = tmp_path / "run"
    codes = [run_killable(folder, verb, deadly.config.config_id) for verb in ("start", "resume")]
    assert codes == [-signal.SIGABRT, -signal.SIGABRT]
    assert run_killable(folder, "resume", deadly.config.config_id) == 0
    rows = (folder / "trials.csv").read_text().splitlines()
    failed = [row for row in rows if ",failed," in row]
    assert len(failed) == 1
    assert "the process died in this trial each time" in failed[0]
    assert (folder / "pareto.json").exists()


def run_killable(folder: Path, verb: str, abort: str) -> int:
    return subprocess.run(
        [sys.executable, str(HERE / "killable.py"), str(folder), verb, "18"],
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1]), "AUTOTOK_TEST_ABORT": abort},
        stderr=subprocess.DEVNULL,
        timeout=120,
        check=False,
    ).returncode
