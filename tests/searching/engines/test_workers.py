"""Worker processes: the answers of the in-process engine, and no accident stops the search."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import factories
import pytest
from problems import FakeEvaluator, fake_problem, vit_facts

from autotok.config import CompressionConfig, Reduction
from autotok.errors import AutotokError, UnknownName
from autotok.searching.engines.base import InProcessEngine, Job, Outcome, WorkerFactory
from autotok.searching.engines.workers import ProcessEngine
from autotok.searching.running.opening import run_search
from autotok.searching.space.settings import SearchSettings

pytestmark = pytest.mark.usefixtures("few_candidates")

HERE = Path(__file__).parent


def config(keep: int) -> CompressionConfig:
    return CompressionConfig("topk", reductions=(Reduction(3, num_keep=keep),))


def jobs(count: int) -> list[Job]:
    return [Job(n, config(60 + n), 0, 64) for n in range(count)]


def outcomes(engine: ProcessEngine, wanted: Sequence[Job]) -> dict[int, Outcome]:
    """All jobs through the engine, never more open than it takes."""
    waiting, found, under_way = list(wanted), {}, 0
    while waiting or under_way:
        while waiting and under_way < engine.capacity:
            engine.submit(waiting.pop(0))
            under_way += 1
        outcome = engine.collect()
        under_way -= 1
        assert outcome.job.number not in found
        found[outcome.job.number] = outcome
    return found


@contextmanager
def processes(
    factory: WorkerFactory, workers: int, timeout_s: float | None = None
) -> Iterator[ProcessEngine]:
    engine = ProcessEngine(factory, workers, timeout_s=timeout_s)
    try:
        yield engine
    finally:
        engine.close()


@pytest.mark.slow
def test_three_workers_give_every_outcome_once_and_as_in_process(tmp_path: Path) -> None:
    here = InProcessEngine(fake_problem())
    with processes(factories.Workers(tmp_path), 3) as engine:
        found = outcomes(engine, jobs(12))
    for job in jobs(12):
        here.submit(job)
        expected = here.collect()
        assert found[job.number].tally == expected.tally
        assert found[job.number].error == ""
    assert 1 <= len(set((tmp_path / "built").read_text().split())) <= 3


@pytest.mark.slow
def test_a_search_with_one_worker_process_is_the_in_process_search(tmp_path: Path) -> None:
    settings = SearchSettings(n_trials=14, seed=3)
    here = run_search(settings, fake_problem(), tmp_path / "here")
    engine = ProcessEngine(factories.fake_worker, 1)
    there = run_search(settings, fake_problem(), tmp_path / "there", engine=engine)
    assert [(r.params, r.state, r.score) for r in there.records] == [
        (r.params, r.state, r.score) for r in here.records
    ]
    assert [(r.config, r.score) for r in there.front] == [(r.config, r.score) for r in here.front]


def test_a_job_whose_worker_is_killed_runs_again_on_a_fresh_one(tmp_path: Path) -> None:
    job = Job(0, config(50), factories.KILL_ONCE, factories.KILL_ONCE + 8)
    with processes(factories.Workers(tmp_path), 1) as engine:
        found = outcomes(engine, [job, *jobs(3)[1:]])
    assert [found[n].error for n in range(3)] == ["", "", ""]
    assert found[0].tally == FakeEvaluator(vit_facts())(job.config, job.start, job.stop)
    assert len((tmp_path / "built").read_text().split()) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start", "words"),
    [
        (factories.KILL_ALWAYS, "worker died with signal 9, perhaps out of memory"),
        pytest.param(factories.SEGFAULT, "worker died with signal 11", marks=pytest.mark.crash),
        (factories.RAISE, "ValueError: no such image"),
    ],
)
def test_a_job_that_kills_every_worker_fails_in_words_and_the_others_go_on(
    start: int, words: str, tmp_path: Path
) -> None:
    with processes(factories.Workers(tmp_path), 1) as engine:
        found = outcomes(engine, [Job(0, config(50), start, start + 8), *jobs(2)[1:]])
    assert found[0].tally is None
    assert found[0].error == words
    assert found[1].error == ""


def test_a_job_that_hangs_is_stopped_and_fails(tmp_path: Path) -> None:
    hanging = Job(0, config(50), factories.HANG, factories.HANG + 16)
    with processes(factories.Workers(tmp_path), 1, timeout_s=0.5) as engine:
        found = outcomes(engine, [hanging, *jobs(2)[1:]])
    assert found[0].error == "no result after 0.5 s; its worker was stopped"
    assert found[1].error == ""


def test_more_images_may_take_longer_in_proportion_and_a_fine_tune_any_time() -> None:
    with processes(factories.fake_worker, 1, timeout_s=2.0) as engine:
        limits = [engine._limit_s(Job(0, config(50), 0, stop)) for stop in (16, 64, 16)]
        assert limits == [2.0, 8.0, 2.0]
        assert engine._limit_s(Job(0, config(50), task="finetune")) is None


def test_only_the_first_images_of_trials_say_how_long_others_may_take() -> None:
    with processes(factories.fake_worker, 1, timeout_s=30.0) as engine:
        for start, stop in ((0, 1), (8, 40)):  # the speed test, when no trial was asked for yet
            limit_s = engine._limit_s(Job(-1, config(50), start, stop))
            assert limit_s is not None
            assert 30.0 <= limit_s <= 60.0
        assert engine._limit_s(Job(0, config(50), 0, 500)) == 30.0
        assert engine._limit_s(Job(0, config(50), 500, 510)) == 30.0
        assert engine._limit_s(Job(-2, config(60), 0, 1000)) == 60.0
        assert engine._limit_s(Job(1, config(60), 0, 500)) == 30.0


@pytest.mark.slow
def test_a_fine_tune_goes_on_where_its_killed_worker_stopped_and_has_no_time_limit(
    tmp_path: Path,
) -> None:
    factory = factories.Workers(tmp_path, steps=30, delay_s=0.02, gate=6)
    log = tmp_path / f"{config(40).config_id}.log"
    with processes(factory, 1, timeout_s=0.3) as engine:
        engine.submit(Job(0, config(40), task="finetune"))
        killer = subprocess.Popen(
            [sys.executable, "-S", "-c", KILLER, str(tmp_path / "built"), str(log)]
        )
        outcome = engine.collect()
        killer.wait()
    assert outcome.error == ""
    assert outcome.tuned is not None
    assert outcome.tuned.steps == 30
    steps = [int(line.split()[0]) for line in log.read_text().splitlines()]
    assert sorted(set(steps)) == list(range(30))
    assert len(steps) <= 31  # at most the step under way was done twice
    assert len({line.split()[1] for line in log.read_text().splitlines()}) == 2


KILLER = """
import os, pathlib, signal, sys, time
built, log = map(pathlib.Path, sys.argv[1:])
while not log.exists() or log.read_text().count("\\n") < 5:
    time.sleep(0.01)
os.kill(int(built.read_text().split()[0]), signal.SIGKILL)
built.with_name("go").touch()
"""


def test_an_error_of_ours_in_the_factory_is_raised_here_as_it_is() -> None:
    with processes(factories.unknown_backbone, 1) as engine:
        engine.submit(jobs(1)[0])
        with pytest.raises(UnknownName, match="did you mean 'autoformer_demo'"):
            engine.collect()


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        (factories.broken, "a worker could not be built: ZeroDivisionError: nothing to divide"),
        (factories.leaves, "a worker could not be built: SystemExit: no licence"),
        pytest.param(
            factories.dead_on_arrival,
            "^worker died with signal 9, perhaps out of memory while it started, as 3 before it",
            marks=pytest.mark.crash,
        ),
    ],
)
def test_a_worker_that_cannot_be_built_ends_the_search_in_words(
    factory: WorkerFactory, words: str
) -> None:
    with processes(factory, 1) as engine:
        engine.submit(jobs(1)[0])
        with pytest.raises(AutotokError, match=words):
            engine.collect()


@pytest.mark.crash
def test_workers_killed_while_they_start_are_started_again(tmp_path: Path) -> None:
    with processes(factories.SlowToLive(tmp_path, deaths=3), 2) as engine:
        found = outcomes(engine, jobs(4))
    assert [found[n].error for n in range(4)] == [""] * 4


@pytest.mark.slow
def test_closing_ends_busy_workers_at_once_and_may_be_repeated(tmp_path: Path) -> None:
    engine = ProcessEngine(factories.Workers(tmp_path), 2)
    engine.submit(Job(0, config(50), factories.HANG, 2000))
    engine.submit(jobs(2)[1])
    engine.collect()
    pids = [int(pid) for pid in (tmp_path / "built").read_text().split()]
    engine.close()
    engine.close()
    assert not [pid for pid in pids if alive(pid)]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc")
@pytest.mark.parametrize(
    "blow", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.crash)]
)
def test_when_the_driver_is_killed_or_interrupted_no_worker_is_left(
    blow: signal.Signals, tmp_path: Path
) -> None:
    path = os.pathsep.join([str(HERE), str(HERE.parent), str(HERE.parents[2])])
    driver = subprocess.Popen(
        [sys.executable, str(HERE / "driver.py"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    built = tmp_path / "built"
    until(lambda: built.exists() and built.read_text().count("\n") == 2)
    pids = [int(pid) for pid in built.read_text().split()]
    assert all(map(alive, pids))
    if blow == signal.SIGINT:
        os.killpg(driver.pid, blow)  # as a terminal does: to everybody
    else:
        driver.send_signal(blow)
    _, errors = driver.communicate(timeout=20)
    until(lambda: not any(map(alive, pids)))
    assert errors.decode().count("Traceback") == (blow == signal.SIGINT)  # the driver's own


def until(condition: object, patience_s: float = 120.0) -> None:
    assert callable(condition)
    end = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
