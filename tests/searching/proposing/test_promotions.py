"""Fine-tunes in the search: who gets one, what is recorded, what is never run twice."""

import dataclasses
from collections import Counter
from pathlib import Path

import pytest
from problems import FakeEvaluator, fake_problem, vit_facts

from autotok.config import CompressionConfig
from autotok.counting.cost import Cost
from autotok.searching.proposing.promotions import (
    can_reach_front,
    expected_recovery,
    next_to_tune,
    recovery,
)
from autotok.searching.records.objective import make_objectives
from autotok.searching.records.record import Score, TrialRecord
from autotok.searching.running.opening import resume_search, run_search
from autotok.searching.running.search_result import SearchResult
from autotok.searching.space.problem import Problem, Tuned
from autotok.searching.space.settings import SearchSettings
from autotok.searching.space.space_file import load_space, space_from_dict

FACTS = vit_facts()
OBJECTIVES = make_objectives(("quality", "macs_g"), "top1")
SETTINGS = SearchSettings(n_trials=20, retrain_trials=4)


def record(number: int, quality: float, macs_g: float, **further: object) -> TrialRecord:
    config = CompressionConfig("topk", (), {"number": number})
    score = Score("top1", quality, quality - 1, quality + 1, 100)
    costs = Cost(int(macs_g * 1e9), int(macs_g * 1e9), 1)
    given = {"costs": costs, "score": score, "layers": (1,), **further}
    return TrialRecord(number, "complete", config, **given)  # type: ignore[arg-type]


def problem_of(evaluator: FakeEvaluator, **changes: object) -> Problem:
    space = dataclasses.replace(load_space("default"), **changes)  # type: ignore[arg-type]
    return fake_problem(space=space, evaluate=evaluator, finetune=evaluator.finetune)


def searched(
    folder: Path, settings: SearchSettings = SETTINGS
) -> tuple[FakeEvaluator, SearchResult]:
    evaluator = FakeEvaluator(FACTS)
    return evaluator, run_search(settings, problem_of(evaluator), folder)


def test_the_fine_tune_goes_where_it_is_expected_to_move_the_front_most() -> None:
    good, cheap, useless = record(0, 90.0, 4.0), record(1, 60.0, 1.0), record(2, 59.0, 3.9)
    records = [good, cheap, useless]
    assert next_to_tune(records, (), (), OBJECTIVES, ()) == cheap
    left = next_to_tune(records, (1,), (), OBJECTIVES, ())
    assert left != cheap
    assert next_to_tune(records, (0, 1, 2), (), OBJECTIVES, ()) is None


def test_nothing_is_tuned_when_fine_tunes_regain_nothing() -> None:
    records = [record(0, 90.0, 4.0), record(1, 60.0, 1.0)]
    assert next_to_tune(records, (), (), OBJECTIVES, (-1.0,) * 5) is None
    assert next_to_tune(records, (), (), OBJECTIVES, (0.5,) * 5) is not None


def test_the_best_is_worth_a_fine_tune_where_the_uncompressed_model_is_better() -> None:
    records = [record(0, 70.0, 2.0), record(1, 30.0, 1.0), record(2, 20.0, 1.1)]
    assert next_to_tune(records, (1, 2), (), OBJECTIVES, (), ceiling=90.0) == records[0]
    assert next_to_tune(records, (1, 2), (), OBJECTIVES, ()) is None


def test_a_study_without_quality_among_its_objectives_tunes_nothing() -> None:
    objectives = make_objectives(("macs_g",), "top1")
    assert next_to_tune([record(0, 90.0, 4.0)], (), (), objectives, ()) is None


def test_recovery_is_the_share_of_the_gap() -> None:
    assert recovery(before=30.0, after=20.0, best=10.0) == pytest.approx(0.5)
    assert recovery(before=10.0, after=10.0, best=10.0) == 0.0
    assert expected_recovery(()) == 0.5
    assert expected_recovery((0.0,)) == 0.25


def test_what_would_be_dominated_at_the_best_quality_cannot_reach_the_front() -> None:
    front = [record(0, 90.0, 2.0), record(1, 70.0, 1.0)]
    assert can_reach_front(record(2, 50.0, 0.9), front, OBJECTIVES)
    assert can_reach_front(record(3, 50.0, 1.9), front, OBJECTIVES)
    assert not can_reach_front(record(4, 50.0, 2.1), front, OBJECTIVES)


def test_the_first_fine_tune_goes_to_what_would_be_recommended_without_any(
    tmp_path: Path,
) -> None:
    _, result = searched(tmp_path / "run")
    plug_in = [r for r in result.records if r.measured and r.tuned is None]
    first = min((r for r in result.records if r.tuned is not None), key=lambda r: r.number)
    best = max(plug_in, key=lambda r: r.score.value if r.score is not None else 0.0)
    assert first.base == best.number


def test_promoted_trials_retrain_an_earlier_configuration_and_say_so(tmp_path: Path) -> None:
    evaluator, result = searched(tmp_path / "run")
    tuned = [r for r in result.records if r.tuned is not None]
    assert len(tuned) == 4
    assert len(evaluator.tuned) == 5  # and the random control of a best that was retrained
    by_number = {r.number: r for r in result.records}
    for trial in tuned:
        assert trial.base is not None
        assert trial.origin == "promotion"
        assert trial.params["mode"] == "retrain"
        base = by_number[trial.base]
        assert trial.config is not None
        assert trial.config.plugged_in == base.config
        assert trial.untuned == base.tally
        assert trial.score is not None
        assert trial.costs == base.costs
    assert len({r.base for r in tuned}) == 4


def test_plug_in_images_are_not_run_again_for_a_fine_tune(tmp_path: Path) -> None:
    evaluator, result = searched(tmp_path / "run")
    runs = Counter((name, start) for name, start, _ in evaluator.calls)
    assert max(runs.values()) == 1
    assert result.evaluated == 24


def test_a_retrained_best_meets_a_retrained_control(tmp_path: Path) -> None:
    evaluator = FakeEvaluator(FACTS)
    problem = problem_of(evaluator, mode=("retrain",))
    result = run_search(SearchSettings(n_trials=8), problem, tmp_path / "run")
    assert result.best is not None
    assert result.best.config is not None
    assert result.best.config.mode == "retrain"
    modes = [c.config.mode for c in result.final.controls if c.config is not None]
    assert modes.count("retrain") == 1
    assert all(c.state == "complete" for c in result.final.controls)


def test_a_fine_tune_that_fails_is_recorded_and_the_search_goes_on(tmp_path: Path) -> None:
    evaluator = FakeEvaluator(FACTS)

    def diverge(config: CompressionConfig) -> Tuned:
        raise ArithmeticError("fine-tuning diverged at step 7 (loss nan)")

    problem = dataclasses.replace(problem_of(evaluator), finetune=diverge)
    result = run_search(SETTINGS, problem, tmp_path / "run")
    failed = [r for r in result.records if r.state == "failed"]
    assert len(failed) == 4
    assert all("step 7" in r.reason for r in failed)
    assert result.best is not None


def test_an_interrupted_fine_tune_runs_again_and_the_front_is_the_same(tmp_path: Path) -> None:
    evaluator, whole = searched(tmp_path / "whole")
    again = FakeEvaluator(FACTS)
    count = 0

    def interrupted(config: CompressionConfig) -> Tuned:
        nonlocal count
        count += 1
        if count == 2:
            raise KeyboardInterrupt
        return again.finetune(config)

    problem = dataclasses.replace(problem_of(again), finetune=interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_search(SETTINGS, problem, tmp_path / "run")
    result = resume_search(problem, tmp_path / "run")
    ids = [[r.config.config_id for r in x.front if r.config] for x in (whole, result)]
    assert ids[0] == ids[1]
    assert evaluator.tuned == again.tuned


def test_a_space_that_only_retrains_tunes_what_can_still_reach_the_front(tmp_path: Path) -> None:
    evaluator = FakeEvaluator(FACTS)
    problem = problem_of(evaluator, mode=("retrain",))
    result = run_search(SearchSettings(n_trials=12), problem, tmp_path / "run")
    done = [r for r in result.records if r.state == "complete" and r.layers]
    stopped = [r for r in done if r.tuned is None]
    assert all("before its fine-tune" in r.stopped for r in stopped)
    assert 0 < len(evaluator.tuned)
    assert len([r for r in done if r.tuned is not None]) + len(stopped) == len(done)


def test_how_to_train_is_proposed_after_the_first_fine_tune(tmp_path: Path) -> None:
    data = {"finetune": {"length": ["40 steps", "80 steps"], "losses": ["soft", "ce+soft"]}}
    space = space_from_dict({"methods": ["tome", "evit", "topk", "ltp"],
                             "mode": ["plug-in", "retrain"], **data})  # fmt: skip
    specs = set()
    for seed in (2, 3):
        evaluator = FakeEvaluator(FACTS)
        problem = fake_problem(space=space, evaluate=evaluator, finetune=evaluator.finetune)
        settings = SearchSettings(n_trials=20, retrain_trials=8, seed=seed)
        result = run_search(settings, problem, tmp_path / f"run{seed}")
        tuned = [r for r in result.records if r.tuned is not None]
        specs |= {str(r.config.finetune) for r in tuned if r.config is not None}
        assert tuned[0].params["finetune.length"] == "40 steps"
        assert tuned[0].params["finetune.losses"] == "soft"
    assert len(specs) > 1


def test_a_problem_that_cannot_fine_tune_is_plug_in_only(tmp_path: Path) -> None:
    problem = fake_problem()
    assert problem.space.mode == ("plug-in",)
    result = run_search(SETTINGS, problem, tmp_path / "run")
    assert all(r.params.get("mode", "plug-in") == "plug-in" for r in result.records)
