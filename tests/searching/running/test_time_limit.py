"""The time limit covers what is around a search; one without a trial says what was missing."""

import dataclasses
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from clocked import Workers, follow
from hypothesis import given
from hypothesis import strategies as st
from problems import FakeEvaluator, FakeTally, fake_problem, vit_facts

from autotok.config import CompressionConfig
from autotok.errors import NothingEvaluated
from autotok.evaluation.tally import Tally
from autotok.searching.running.opening import open_search, resume_search, run_search
from autotok.searching.running.time_limit import Around, TimeLimit, evened
from autotok.searching.space.settings import SearchSettings, fidelity_plan

LIMITED = SearchSettings(n_trials=6, timeout_s=60.0)


def test_a_limit_that_loading_used_up_leaves_no_trial_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(monotonic=lambda: 70.0)
    why = "70 s of the time limit of 60 s went into loading"
    with monkeypatch.context() as patched:
        patched.setattr("autotok.searching.running.time_limit.time", clock)
        with pytest.raises(NothingEvaluated, match=why):
            run_search(LIMITED, fake_problem(), tmp_path / "run", around=Around(0.0))
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


def planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: Workers, limit_s: float
) -> tuple[TimeLimit, int]:
    """A clock that made its plan, and the images per trial planned."""
    follow(workers, monkeypatch)
    settings, problem = SearchSettings(n_trials=32, timeout_s=limit_s), fake_problem("100%")
    tmp_path.mkdir(exist_ok=True)
    search = open_search(settings, problem, tmp_path / "study.log")
    clock = TimeLimit(settings, search, workers.capacity, Around(0.0))
    return clock, clock.make_plan(problem, workers).few


def test_measuring_the_speed_ends_after_a_share_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, fast = Workers(1, image_s=10.0), Workers(1, image_s=0.01)
    planned(tmp_path / "a", monkeypatch, slow, 100.0)
    assert [(job.start, job.stop) for job in slow.asked] == [(0, 1)]
    clock, few = planned(tmp_path / "b", monkeypatch, fast, 100.0)
    assert [job.stop - job.start for job in fast.asked] == [1] * 8 + [32]
    left_s = 100.0 - (8 + 32) * 0.01
    assert clock.elapsed() == pytest.approx(100.0 - left_s)
    assert few == int(0.28 * left_s / 0.01 / 32)  # 28 % of the time, 32 trials


def test_a_mean_whose_speed_took_one_image_is_searched_without_a_ceiling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluate(config: CompressionConfig, start: int, stop: int) -> Tally:
        kl, n = 0.1 if config.reductions else 0.001, stop - start
        return Tally("kl", n, num_compared=n, kl_sum=n * kl, kl_squares=n * kl**2, kls=(kl,) * n)

    workers = Workers(1, image_s=3.0, batch_s=0.001)
    follow(workers, monkeypatch)
    workers._accuracy = evaluate  # type: ignore[assignment]
    problem = dataclasses.replace(
        fake_problem(), metric="kl", load_tally=lambda data: Tally(**data)
    )
    with pytest.raises(NothingEvaluated, match="a first trial is expected to take 24 s"):
        run_search(LIMITED, problem, tmp_path / "no", engine=workers, around=Around(0.0))
    workers.now = 0.0
    workers.asked.clear()
    settings = dataclasses.replace(
        LIMITED, images_few=4, images_more=4, images_final=8, control_shapes=0
    )
    run = run_search(settings, problem, tmp_path / "run", engine=workers, around=Around(0.0))
    assert (workers.asked[0].stop, workers.asked[1].number) == (1, 0)  # then came the first trial
    assert run.evaluated == 6
    assert run.final.reference is not None
    assert run.final.reference.score is not None
    assert run.final.reference.score.num_images == 8


def test_each_worker_is_measured_while_the_others_are_busy_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = Workers(2, image_s=0.02)
    _, few = planned(tmp_path, monkeypatch, workers, 100.0)
    assert [job.start for job in workers.asked] == [*range(16), 16, 48]
    assert few == int(0.28 * (100.0 - 0.16 - 0.64) * 2 / 0.02 / 32)


def test_images_of_a_trial_are_as_many_as_a_batch_is_fast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = Workers(1, image_s=0.03, batch_s=0.006)
    _, few = planned(tmp_path, monkeypatch, workers, 100.0)
    assert few == int(0.28 * (100.0 - 8 * 0.03 - 32 * 0.006) / 0.006 / 32)


def test_two_workers_plan_for_as_many_images_as_one_that_is_twice_as_fast() -> None:
    settings = SearchSettings(n_trials=32, timeout_s=100.0)
    one = fidelity_plan(settings, 10_000, 0.05)
    assert fidelity_plan(settings, 10_000, 0.1, capacity=2) == one


def test_images_that_the_speed_was_measured_on_are_not_run_again(tmp_path: Path) -> None:
    settings = SearchSettings(n_trials=4, timeout_s=1000.0, images_final=40, control_shapes=0)
    workers = Workers(2, image_s=0.001)
    result = run_search(settings, fake_problem(), tmp_path / "run", engine=workers)
    plain = CompressionConfig().config_id
    seen = [(j.start, j.stop) for j in workers.asked if j.config.config_id == plain]
    images = [i for start, stop in seen for i in range(start, stop)]
    assert sorted(images) == list(range(40))
    assert result.final.reference.score is not None
    assert result.final.reference.score.num_images == 40


def test_what_the_speed_was_measured_on_is_known_to_a_run_that_goes_on(tmp_path: Path) -> None:
    limited = {"timeout_s": 1000.0, "images_few": 8, "images_more": 16, "images_final": 40}

    def evaluate(config: CompressionConfig, begin: int, stop: int) -> FakeTally:
        """The uncompressed model is far from perfect, which proposals rest on."""
        found = FakeEvaluator(vit_facts())(config, begin, stop)
        return dataclasses.replace(found, hits=0.5 * found.hits)

    problem = fake_problem(evaluate=evaluate)
    run_search(SearchSettings(n_trials=10, **limited), problem, tmp_path / "short")
    extended = resume_search(problem, tmp_path / "short", n_trials=24)
    whole = run_search(SearchSettings(n_trials=24, **limited), problem, tmp_path / "long")
    assert [r.params for r in extended.records] == [r.params for r in whole.records]
    scores = [(r.config, r.score) for r in extended.front]
    assert scores == [(r.config, r.score) for r in whole.front]
    assert extended.final.reference.score == whole.final.reference.score


def test_the_start_of_workers_is_no_part_of_the_time_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = Workers(2, image_s=0.001, start_s=500.0)
    follow(workers, monkeypatch)
    run = run_search(LIMITED, fake_problem(), tmp_path / "run", engine=workers, around=Around(0.0))
    assert run.evaluated == 6
    assert workers.now > 500.0
    assert run.seconds == pytest.approx(workers.now - 500.0)
    assert run.workers == "2 workers started in 500.0 s, which the time limit leaves out"


def test_a_speed_that_cannot_be_measured_leaves_it_to_the_trials_to_say_why(
    tmp_path: Path,
) -> None:
    def evaluate(config: CompressionConfig, begin: int, stop: int) -> FakeTally:
        raise ValueError("no such image")

    with pytest.raises(NothingEvaluated, match=r"all 6 trials failed, .* no such image"):
        run_search(LIMITED, fake_problem(evaluate=evaluate), tmp_path / "run")


@given(st.lists(st.integers(0, 300), min_size=1, max_size=12), st.floats(0.0, 5000.0))
def test_who_has_seen_fewest_images_catches_up_first(seen: list[int], more: float) -> None:
    level = evened(seen, more)
    assert sum(max(0, level - one) for one in seen) <= more + 1e-6
    assert sum(max(0, level + 1 - one) for one in seen) > more - 1e-6


def test_no_image_is_run_where_no_time_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = Workers(1, image_s=1.0)
    workers.now = 70.0
    clock, _ = planned(tmp_path, monkeypatch, workers, 60.0)
    assert workers.asked == []
    assert clock.closes_trials()


def test_no_image_is_run_for_fine_tunes_that_there_is_no_time_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = Workers(1, image_s=1.0)
    workers.now = 70.0
    follow(workers, monkeypatch)
    evaluator = FakeEvaluator(vit_facts())
    problem = fake_problem(evaluate=evaluator, finetune=evaluator.finetune)
    settings = dataclasses.replace(LIMITED, retrain_trials=1)
    with pytest.raises(NothingEvaluated, match="70 s of the time limit of 60 s"):
        run_search(settings, problem, tmp_path / "run", engine=workers, around=Around(0.0))
    assert workers.asked == []
