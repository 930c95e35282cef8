"""The time limit covers what is around a search; one without a trial says what was missing."""

import dataclasses
import time
from pathlib import Path

import pytest
from problems import FakeTally, fake_problem

from autotok.config import CompressionConfig
from autotok.errors import NothingEvaluated
from autotok.searching.running.study import resume_search, run_search
from autotok.searching.running.time_limit import Around
from autotok.searching.space.settings import SearchSettings

LIMITED = SearchSettings(n_trials=6, timeout_s=60.0)


def test_a_limit_that_loading_used_up_leaves_no_trial_and_says_so(tmp_path: Path) -> None:
    late = Around(time.monotonic() - 70.0)
    with pytest.raises(NothingEvaluated, match="70 s of the time limit of 60 s went into loading"):
        run_search(LIMITED, fake_problem(), tmp_path / "run", around=late)
    assert NothingEvaluated.exit_code == 1
    assert not (tmp_path / "run" / "pareto.json").exists()
    resumed = resume_search(fake_problem(), tmp_path / "run", timeout_s=300.0)
    assert resumed.evaluated == 6


def test_what_is_set_aside_for_the_hand_over_is_not_spent(tmp_path: Path) -> None:
    with pytest.raises(NothingEvaluated, match="61 s are set aside for export and report"):
        run_search(LIMITED, fake_problem(), tmp_path / "run", around=Around(time.monotonic(), 61.0))


def test_trials_that_all_fail_are_named_with_the_first_reason(tmp_path: Path) -> None:
    def evaluate(config: CompressionConfig, begin: int, stop: int) -> FakeTally:
        raise ValueError("no such image")

    settings = dataclasses.replace(LIMITED, timeout_s=None)
    with pytest.raises(NothingEvaluated, match=r"all 6 trials failed, .* no such image"):
        run_search(settings, fake_problem(evaluate=evaluate), tmp_path / "run")
