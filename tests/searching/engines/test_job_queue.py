"""The queue that lends jobs to Ray's scheduler."""

from test_workers import jobs

from autotok.searching.engines.base import Outcome
from autotok.searching.engines.job_queue import LOSSES, JobQueue


def test_a_scheduler_waits_for_the_driver_to_think_and_not_while_it_waits() -> None:
    queue = JobQueue()
    first, second = jobs(2)
    queue.submit(first)
    assert queue.next("a") == first
    queue.submit(second)
    assert queue.next("b") == second
    queue.finish("a", Outcome(first, None, 1.0, "failed"))
    assert queue.collect().error == "failed"
    queue.close()
    assert queue.next("c") is None
    queue.finish("unknown", Outcome(first, None, 1.0))
    queue.lose("unknown")
    assert queue.job("b") == second


def test_a_job_whose_worker_is_lost_is_handed_out_first_and_fails_in_the_end() -> None:
    queue = JobQueue()
    first, second = jobs(2)
    queue.submit(first)
    queue.submit(second)
    for attempt in range(LOSSES + 1):
        assert queue.next(f"attempt {attempt}") == first
        queue.lose(f"attempt {attempt}")
        queue.lose(f"attempt {attempt}")  # a scheduler that says so twice counts once
    assert queue.collect().error.startswith(f"{LOSSES + 1} workers were lost with this job")
    assert queue.next("b") == second
