"""A job done here: whatever happens is its outcome."""

import pytest
from problems import FakeEvaluator, FakeTally, fake_problem, vit_facts

from autotok.config import CompressionConfig
from autotok.searching.engines.base import InProcessEngine, Job, run_job

JOB = Job(3, CompressionConfig(), 0, 8)


def test_jobs_are_done_one_at_a_time_in_their_order() -> None:
    engine = InProcessEngine(fake_problem())
    assert engine.start() == 0.0
    for number in (1, 2):
        engine.submit(Job(number, CompressionConfig(), 0, 8))
    assert [engine.collect().job.number for _ in range(2)] == [1, 2]


@pytest.mark.parametrize(
    ("raised", "words"),
    [(ValueError("no such image"), "ValueError: no such image"), (SystemExit(3), "SystemExit: 3")],
)
def test_what_a_trial_raises_becomes_its_error(raised: BaseException, words: str) -> None:
    def evaluate(config: CompressionConfig, start: int, stop: int) -> FakeTally:
        raise raised

    outcome = run_job(fake_problem(evaluate=evaluate), JOB)
    assert (outcome.job, outcome.tally, outcome.error) == (JOB, None, words)


def test_ctrl_c_is_not_a_trials_error() -> None:
    def evaluate(config: CompressionConfig, start: int, stop: int) -> FakeTally:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(fake_problem(evaluate=evaluate), JOB)
    good = run_job(fake_problem(evaluate=FakeEvaluator(vit_facts())), JOB)
    assert good.error == ""
