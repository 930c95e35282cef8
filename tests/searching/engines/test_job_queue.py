"""The queue that lends jobs to Ray's scheduler."""

from test_workers import jobs

from autotok.searching.engines.job_queue import JobQueue


def test_a_scheduler_waits_for_the_driver_to_think_and_not_while_it_waits() -> None:
    queue = JobQueue()
    first, second = jobs(2)
    queue.submit(first)
    assert queue.next("a") == first
    queue.submit(second)
    assert queue.next("b") == second
    queue.finish("a", None, "lost")
    assert queue.collect().error == "lost"
    queue.close()
    assert queue.next("c") is None
    queue.finish("unknown", None)
    assert queue.job("b") == second
