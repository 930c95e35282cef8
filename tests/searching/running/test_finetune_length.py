"""Fine-tunes are as long as the time allows at the speed at which training steps run."""

import dataclasses
from pathlib import Path

import pytest
from problems import FakeEvaluator, fake_problem, vit_facts

from autotok.config import CompressionConfig
from autotok.finetune_spec import Length
from autotok.searching.running.opening import resume_search, run_search
from autotok.searching.running.question import Question
from autotok.searching.running.search_result import SearchResult
from autotok.searching.running.session import build_problem
from autotok.searching.space.finetuning import image_macs
from autotok.searching.space.problem import ExactCosts, Problem, Tuned
from autotok.searching.space.settings import SearchSettings

SETTINGS = SearchSettings(n_trials=8, timeout_s=600.0, images_final=40, retrain_trials=2)


class Pacer:
    """Notes what it is asked, and says that a second trains so many images."""

    def __init__(self, images_per_s: int) -> None:
        self.asked: list[CompressionConfig] = []
        self._images_per_s = images_per_s

    def __call__(self, config: CompressionConfig) -> Tuned:
        self.asked.append(config)
        return Tuned(2, self._images_per_s, 1.0, 0.1)


def problem_with(pace: Pacer | None) -> Problem:
    evaluator = FakeEvaluator(vit_facts())
    problem = fake_problem(evaluate=evaluator, finetune=evaluator.finetune)
    return dataclasses.replace(problem, pace=pace)


def steps(result: SearchResult) -> list[int]:
    return [r.tuned["steps"] for r in result.records if r.tuned is not None]


def test_fine_tunes_are_as_long_as_their_speed_affords(tmp_path: Path) -> None:
    slow, fast = (
        run_search(SETTINGS, problem_with(Pacer(speed)), tmp_path / str(speed))
        for speed in (10, 100)
    )
    assert len(steps(slow)) == len(steps(fast)) == 2
    assert steps(fast)[0] == pytest.approx(10 * steps(slow)[0], rel=0.02)
    first = next(r for r in slow.records if r.tuned is not None)
    assert first.config is not None
    assert first.config.finetune is not None
    assert first.costs is not None
    assert slow.plan.finetune_s is not None
    whole = ExactCosts(vit_facts()).cost(CompressionConfig()).macs
    alone, shared = (image_macs(first.costs.macs, share * whole) for share in (1.0, 0.5))
    images = steps(slow)[0] * first.config.finetune.batch_size
    assert images * shared == pytest.approx(10 * slow.plan.finetune_s * alone, rel=0.01)


def test_a_tenth_of_a_fine_tune_s_time_is_spent_on_its_speed_and_once(tmp_path: Path) -> None:
    pacer = Pacer(10)
    first = run_search(SETTINGS, problem_with(pacer), tmp_path / "run")
    (asked,) = pacer.asked
    assert asked.finetune is not None
    length = Length.parse(asked.finetune.length)
    planned = 0.27 * 600.0 / 2
    assert length.unit == "minutes"
    assert length.amount * 60 == pytest.approx(0.1 * planned, rel=0.05)
    again = resume_search(problem_with(pacer), tmp_path / "run")
    assert len(pacer.asked) == 1
    assert [r.params for r in again.records] == [r.params for r in first.records]


def test_where_nobody_knows_the_speed_it_is_that_of_evaluation(tmp_path: Path) -> None:
    assert len(steps(run_search(SETTINGS, problem_with(None), tmp_path / "run"))) == 2


def test_a_pace_that_fails_leaves_it_to_the_fine_tune_to_say_why(tmp_path: Path) -> None:
    def broken(config: CompressionConfig) -> Tuned:
        raise MemoryError("too large a batch")

    problem = dataclasses.replace(problem_with(None), pace=broken)
    assert len(steps(run_search(SETTINGS, problem, tmp_path / "run"))) == 2


def test_a_model_is_paced_without_leaving_anything(tmp_path: Path) -> None:
    session = build_problem(
        Question(backbone="tiny", data="digits", budgets=("60%",)), weights=tmp_path / "weights"
    )
    worker, problem = session.worker, session.problem
    before = worker.evaluate(CompressionConfig(), 0, 8)
    config = CompressionConfig.from_dict(
        {
            "method": "tome",
            "reductions": [{"layer": 1, "keep_ratio": 0.5}],
            "mode": "retrain",
            "finetune": {"length": "0.005 minutes"},
        }
    )
    assert problem.pace is not None
    done = problem.pace(config)
    assert done.images >= 16 * done.steps > 0
    assert done.seconds > 0.0
    assert not (tmp_path / "weights").exists()
    assert worker.evaluate(CompressionConfig(), 0, 8) == before
