"""Fine-tunes are as long as the time allows at the speed at which training steps run."""

import dataclasses
from pathlib import Path

import pytest
from problems import FakeEvaluator, fake_problem, vit_facts

from autotok.config import CompressionConfig
from autotok.finetune_spec import Length
from autotok.report.run_notes import notes_of
from autotok.searching.running.finetune_length import line_through
from autotok.searching.running.opening import resume_search, run_search
from autotok.searching.running.question import Question
from autotok.searching.running.search_result import SearchResult
from autotok.searching.running.session import build_problem
from autotok.searching.running.time_limit import TimeLimit
from autotok.searching.space.finetuning import image_macs
from autotok.searching.space.problem import ExactCosts, Problem, Tuned
from autotok.searching.space.settings import SearchSettings

COSTS = ExactCosts(vit_facts())
SETTINGS = SearchSettings(n_trials=8, timeout_s=600.0, images_final=40, retrain_trials=2)


class Pacer:
    """Notes what it is asked, and says how long an image of the training takes: as its
    multiply-accumulates at a speed, and a time that is the same for all."""

    def __init__(self, macs_per_s: float, besides_s: float = 0.0) -> None:
        self.asked: list[CompressionConfig] = []
        self._macs_per_s, self._besides_s = macs_per_s, besides_s

    def seconds(self, config: CompressionConfig, teacher_share: float) -> float:
        own, whole = (COSTS.cost(c).macs for c in (config, CompressionConfig()))
        return image_macs(own, teacher_share * whole) / self._macs_per_s + self._besides_s

    def __call__(self, config: CompressionConfig) -> Tuned:
        self.asked.append(config)
        return Tuned(2, 100, 100 * self.seconds(config, 1.0), 0.1)


def problem_with(pace: Pacer | None) -> Problem:
    evaluator = FakeEvaluator(vit_facts())
    problem = fake_problem(evaluate=evaluator, finetune=evaluator.finetune)
    return dataclasses.replace(problem, pace=pace)


def steps(result: SearchResult) -> list[int]:
    return [r.tuned["steps"] for r in result.records if r.tuned is not None]


@pytest.mark.parametrize("besides_s", [0.0, 0.05])
def test_fine_tunes_are_as_long_as_their_speed_affords(besides_s: float, tmp_path: Path) -> None:
    pacer = Pacer(1e11, besides_s)
    result = run_search(SETTINGS, problem_with(pacer), tmp_path / "run")
    assert len(pacer.asked) == 2
    assert pacer.asked[0].finetune != pacer.asked[1].finetune  # the teacher has seen neither
    assert result.plan.finetune_s is not None
    tuned = [r for r in result.records if r.tuned is not None]
    assert len(tuned) == 2
    assert tuned[0].costs != tuned[1].costs
    for record in tuned:
        assert record.config is not None
        assert record.config.finetune is not None
        assert record.tuned is not None
        images = record.tuned["steps"] * record.config.finetune.batch_size
        seconds = images * pacer.seconds(record.config, 0.5)
        assert seconds == pytest.approx(result.plan.finetune_s, rel=0.02)


def test_a_tenth_of_a_fine_tune_s_time_is_spent_on_a_speed_and_once(tmp_path: Path) -> None:
    pacer = Pacer(1e11)
    first = run_search(SETTINGS, problem_with(pacer), tmp_path / "run")
    planned = 0.27 * 600.0 / 2
    for asked in pacer.asked:
        assert asked.finetune is not None
        length = Length.parse(asked.finetune.length)
        assert length.unit == "minutes"
        assert length.amount * 60 == pytest.approx(0.1 * planned, rel=0.05)
    again = resume_search(problem_with(pacer), tmp_path / "run")
    assert len(pacer.asked) == 2
    assert [r.params for r in again.records] == [r.params for r in first.records]
    assert again.plan == first.plan


@pytest.mark.parametrize(("share", "told"), [(0.27, "one of 81 s"), (0.0005, "one")])
def test_no_speed_is_measured_where_the_fine_tune_would_no_longer_fit_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, told: str
) -> None:
    monkeypatch.setattr("autotok.searching.space.settings._FINETUNE_SHARE", share)
    monkeypatch.setattr(TimeLimit, "closes_promotions", lambda _, first=False: first)
    pacer = Pacer(1e11)
    result = run_search(SETTINGS, problem_with(pacer), tmp_path / "run")
    assert pacer.asked == []
    assert steps(result) == []
    assert result.no_finetune == (
        f"nothing was fine-tuned: the time limit leaves no room for {told}"
    )
    assert f"{result.no_finetune[1:]}." in notes_of(result, None)[-1]


def test_no_time_is_overhead_that_multiply_accumulates_explain() -> None:
    proportional = {"macs_per_s": pytest.approx(1e9), "overhead": pytest.approx(0.0, abs=1.0)}
    assert line_through(4e9, 4.0, 2e9, 2.0) == proportional
    assert line_through(4e9, 4.0, 2e9, 1.0) == proportional  # cheaper still: noise
    assert line_through(4e9, 4.0, 3.9e9, 9.0) == proportional  # both cost about the same
    flat = line_through(4e9, 4.0, 2e9, 4.5)
    assert (4e9 + flat["overhead"]) / flat["macs_per_s"] == pytest.approx(4.0)


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
