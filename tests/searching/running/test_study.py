"""Whole searches over a problem with fixed answers."""

import csv
import dataclasses
import json
import time
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from problems import FakeEvaluator, FakeTally, fake_problem, vit_facts

from autotok.config import CompressionConfig
from autotok.errors import InfeasibleBudget, RunDirectoryError, UnknownName
from autotok.searching.records.objective import losses, make_objectives
from autotok.searching.records.pareto import front_mask
from autotok.searching.records.rundir import RunDirectory
from autotok.searching.running import study
from autotok.searching.running.events import (
    BudgetsResolved,
    Done,
    Event,
    FinalEvaluation,
    Promoted,
    Started,
    TrialFinished,
)
from autotok.searching.running.opening import resume_search, run_search
from autotok.searching.running.search_result import SearchResult
from autotok.searching.space.settings import SAMPLERS, FidelityPlan, SearchSettings, fidelity_plan

FACTS = vit_facts()


def fronts(result: SearchResult) -> list[tuple[str, float]]:
    return [(r.config.config_id, r.score.value) for r in result.front if r.config and r.score]


def test_a_fifty_trial_search_is_quick_and_stays_in_the_budget(tmp_path: Path) -> None:
    begin = time.process_time()
    problem = fake_problem()
    result = run_search(SearchSettings(n_trials=50), problem, tmp_path / "run")
    assert time.process_time() - begin < 5.0  # about 1 on an idle machine
    assert result.evaluated == 50
    assert result.stopped_by == "n_trials"
    limit = problem.budgets[0].limit
    done = [r for r in result.records if r.state == "complete"]
    assert all(r.costs is not None and r.costs.macs <= limit for r in done)
    assert all(r.within_budget and r.macs_counted == r.costs.macs for r in result.front if r.costs)


def test_no_configuration_is_evaluated_twice(tmp_path: Path) -> None:
    evaluator = FakeEvaluator(FACTS)
    run_search(SearchSettings(n_trials=40), fake_problem(evaluate=evaluator), tmp_path / "run")
    seen: dict[str, list[tuple[int, int]]] = {}
    for config_id, start, stop in evaluator.calls:
        seen.setdefault(config_id, []).append((start, stop))
    for ranges in seen.values():
        ends = [0, *(stop for _, stop in sorted(ranges))]
        assert [start for start, _ in sorted(ranges)] == ends[:-1]  # each image once, in order


def test_only_trials_that_nothing_dominates_get_more_images(tmp_path: Path) -> None:
    result = run_search(SearchSettings(n_trials=30), fake_problem(), tmp_path / "run")
    images = {r.score.num_images for r in result.records if r.score}
    assert images == {result.plan.few, result.plan.more}


def test_the_last_word_is_on_the_full_split_and_non_dominated(tmp_path: Path) -> None:
    result = run_search(SearchSettings(n_trials=30), fake_problem(), tmp_path / "run")
    assert all(r.score is not None and r.score.num_images == 400 for r in result.front)
    objectives = make_objectives(("quality", "macs_g"), "top1")
    assert front_mask(losses([r.values for r in result.front], objectives)).all()
    assert 2 <= len(result.front) <= 6
    assert result.best is not None
    assert result.best.score is not None
    qualities = [r.score.value for r in result.front if r.score]
    assert result.best.score.value == max(qualities)
    assert qualities == sorted(qualities)  # cheapest first, so quality rises along it


def test_the_control_costs_as_much_as_the_best_and_keeps_less(tmp_path: Path) -> None:
    result = run_search(SearchSettings(n_trials=20), fake_problem(), tmp_path / "run")
    control, best = result.final.random_control, result.best
    assert control is not None
    assert best is not None
    assert control.config is not None
    assert control.config.method == "random"
    assert control.costs is not None
    assert best.costs is not None
    assert 0.95 * best.costs.macs < control.costs.macs <= best.costs.macs
    assert control.score is not None
    assert best.score is not None
    assert control.score.value < best.score.value
    assert len(result.final.controls) == 3
    assert result.final.reference is not None
    assert result.final.reference.config == CompressionConfig()


def test_the_same_seed_gives_the_same_front_and_another_seed_other_trials(tmp_path: Path) -> None:
    settings = SearchSettings(n_trials=25, seed=1)
    first = run_search(settings, fake_problem(), tmp_path / "a")
    again = run_search(settings, fake_problem(), tmp_path / "b")
    other = run_search(dataclasses.replace(settings, seed=2), fake_problem(), tmp_path / "c")
    assert fronts(first) == fronts(again)
    assert [r.params for r in first.records] != [r.params for r in other.records]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_searches(sampler: str, tmp_path: Path) -> None:
    settings = SearchSettings(n_trials=16, sampler=sampler)
    result = run_search(settings, fake_problem(), tmp_path / "run")
    assert result.evaluated == 16
    assert (
        len({r.config.config_id for r in result.records if r.state == "complete" and r.config})
        == 16
    )


def test_an_unknown_sampler_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'tpe'"):
        SearchSettings(sampler="tpee")


def test_a_failing_trial_is_recorded_with_its_reason_and_the_search_goes_on(tmp_path: Path) -> None:
    good = FakeEvaluator(FACTS)

    def evaluate(config: CompressionConfig, start: int, stop: int) -> FakeTally:
        if config.method == "tofu":
            raise RuntimeError("CUDA out of memory.\nTried to allocate 2 GiB")
        if config.method == "evit":
            return FakeTally(float("nan"), stop - start)
        return good(config, start, stop)

    settings = SearchSettings(n_trials=20)
    result = run_search(settings, fake_problem(evaluate=evaluate), tmp_path / "run")
    reasons = {
        r.config.method: r.reason for r in result.records if r.state == "failed" and r.config
    }
    assert reasons["tofu"] == "out of memory (RuntimeError: CUDA out of memory.)"
    assert reasons["evit"] == "diverged: top1 is nan"
    assert sum(r.state in ("complete", "failed") for r in result.records) == 20
    assert all(r.config is not None and r.config.method not in reasons for r in result.front)


def test_an_exhausted_space_ends_the_search(tmp_path: Path) -> None:
    from autotok.searching.space.space_file import space_from_dict

    space = space_from_dict(
        {"methods": ["ltp"], "budget_fraction": [1.0, 1.0], "options": {"ltp": {"alpha": 0.5}}}
    )
    problem = fake_problem(space=space)
    result = run_search(SearchSettings(n_trials=10), problem, tmp_path / "run")
    assert result.stopped_by == "exhausted"
    assert result.evaluated == 1
    duplicates = [r for r in result.records if r.state == "duplicate"]
    assert len(duplicates) == len(result.records) - 1
    assert all(r.score == result.records[0].score and r.duplicate_of == 0 for r in duplicates)


def test_the_uncompressed_model_takes_part_only_if_it_is_inside_the_budget(tmp_path: Path) -> None:
    inside = run_search(SearchSettings(n_trials=3), fake_problem("100%"), tmp_path / "a")
    outside = run_search(SearchSettings(n_trials=3), fake_problem("50%"), tmp_path / "b")
    assert inside.records[0].config == CompressionConfig()
    assert all(r.config != CompressionConfig() for r in outside.records)


def test_the_time_limit_ends_the_trials_and_leaves_room_for_the_last_word(tmp_path: Path) -> None:
    good = FakeEvaluator(FACTS)

    def evaluate(config: CompressionConfig, start: int, stop: int) -> FakeTally:
        time.sleep(0.0004 * (stop - start))
        return good(config, start, stop)

    settings = SearchSettings(n_trials=500, timeout_s=3.0)
    result = run_search(settings, fake_problem(evaluate=evaluate), tmp_path / "run")
    assert result.stopped_by == "timeout_s"
    assert result.best is not None


def test_the_plan_spends_the_time_limit_at_the_speed_measured() -> None:
    settings = SearchSettings(n_trials=32, timeout_s=270.0)
    plan = fidelity_plan(settings, 1000, 0.1)
    spent = 32 * plan.few + 16 * (plan.more - plan.few) + 11 * plan.final
    assert 0.7 * 2700 < spent < 1.1 * 2700
    assert fidelity_plan(SearchSettings(), 1000, 0.1) == FidelityPlan(64, 256, 1000)
    assert fidelity_plan(SearchSettings(), 40, 0.1) == FidelityPlan(40, 40, 40)


def test_events_tell_the_story_in_order_with_rising_progress(tmp_path: Path) -> None:
    events: list[Event] = []
    run_search(SearchSettings(n_trials=10), fake_problem(), tmp_path / "run", events.append)
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Done)
    kinds = {type(event) for event in events}
    assert kinds == {
        Started, BudgetsResolved, TrialFinished, Promoted, FinalEvaluation, Done
    }  # fmt: skip
    progress = [event.progress for event in events]
    assert progress == sorted(progress)
    assert progress[-1] == 1.0


def test_the_tables_carry_every_cost_convention(tmp_path: Path) -> None:
    result = run_search(SearchSettings(n_trials=8), fake_problem(), tmp_path / "run")
    with open(tmp_path / "run" / "pareto.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(result.front)
    for row in rows:
        assert float(row["flops2x_g"]) == pytest.approx(2 * float(row["macs_g"]))
        assert float(row["macs_noattn_g"]) < float(row["macs_g"])
        assert row["within_budget"] == "True"
        assert CompressionConfig.from_json(row["config"]).config_id == row["config_id"]
        assert float(row["top1_pct_low"]) < float(row["top1_pct"]) < float(row["top1_pct_high"])
        assert row["num_images"] == "400"
    data = json.loads((tmp_path / "run" / "pareto.json").read_text())
    assert data["random_control"]["config"]["method"] == "random"
    assert data["budgets"][0]["metric"] == "macs"


def test_a_counter_that_disagrees_takes_the_row_off_the_front(tmp_path: Path) -> None:
    problem = dataclasses.replace(fake_problem(), count=lambda config: 10**12)
    result = run_search(SearchSettings(n_trials=6), problem, tmp_path / "run")
    assert result.front == ()
    assert result.best is None


def test_however_many_fall_by_the_counter_what_holds_is_recommended(tmp_path: Path) -> None:
    problem = fake_problem()
    (limit,) = [b.limit for b in problem.budgets]

    def count(config: CompressionConfig) -> int:
        """All but every eighth cost far too much, so that several rounds of finalists fall."""
        times = 10 if config.reductions and int(config.config_id[:4], 16) % 8 else 1
        return times * problem.costs.cost(config).macs

    problem, folder = dataclasses.replace(problem, count=count), tmp_path / "run"
    result = run_search(
        SearchSettings(n_trials=48, sampler="random", control_shapes=0), problem, folder
    )
    hold = [r.number for r in result.records if r.measured and r.config and count(r.config) < limit]
    assert len(hold) < len([r for r in result.records if r.measured]) / 4
    assert result.best is not None
    assert {r.number for r in result.front} <= set(hold)
    again = resume_search(problem, folder)
    assert fronts(again) == fronts(result)


def test_the_study_opens_with_optuna_and_names_its_metrics(tmp_path: Path) -> None:
    run_search(SearchSettings(n_trials=6), fake_problem(), tmp_path / "run")
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "run" / "study.log"))
    study = optuna.load_study(study_name="autotok", storage=optuna.storages.JournalStorage(backend))
    assert study.metric_names == ["top1_pct [%]", "macs_g [G multiply-accumulates]"]
    done = [t for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE]
    assert len(done) == 6
    assert all(t.constraints["budget"] <= 0.0 for t in done)
    assert all(CompressionConfig.from_json(t.user_attrs["config"]) for t in done)


def test_objectives_keep_their_order(tmp_path: Path) -> None:
    settings = SearchSettings(n_trials=6, objectives=("params_m", "quality"))
    result = run_search(settings, fake_problem(), tmp_path / "run")
    data = json.loads((tmp_path / "run" / "pareto.json").read_text())
    assert [o["name"] for o in data["objectives"]] == ["params_m", "top1_pct"]
    assert len(result.front) == 1  # all cost the same parameters, so the best quality wins


def test_an_infeasible_budget_leaves_no_folder_behind(tmp_path: Path) -> None:
    with pytest.raises(InfeasibleBudget):
        run_search(SearchSettings(), fake_problem("1MFLOPs"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    evaluator = FakeEvaluator(FACTS)
    problem = fake_problem(evaluate=evaluator)
    first = run_search(SearchSettings(n_trials=12), problem, tmp_path / "run")
    calls = len(evaluator.calls)
    again = resume_search(problem, tmp_path / "run")
    assert len(evaluator.calls) == calls
    assert fronts(again) == fronts(first)


def test_resuming_with_more_trials_goes_on_as_if_never_stopped(tmp_path: Path) -> None:
    run_search(SearchSettings(n_trials=12), fake_problem(), tmp_path / "short")
    extended = resume_search(fake_problem(), tmp_path / "short", n_trials=20)
    whole = run_search(SearchSettings(n_trials=20), fake_problem(), tmp_path / "long")
    assert [r.params for r in extended.records] == [r.params for r in whole.records]
    assert fronts(extended) == fronts(whole)


def test_a_run_of_another_problem_is_not_resumed(tmp_path: Path) -> None:
    run_search(SearchSettings(n_trials=3), fake_problem(), tmp_path / "run")
    with pytest.raises(RunDirectoryError, match=r"with budget .*, and this search has budget "):
        resume_search(fake_problem("40%"), tmp_path / "run")


def test_a_table_that_takes_long_to_write_is_written_less_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, written = [0.0], []

    def write_records(run: RunDirectory, name: str, *others: object, **further: object) -> None:
        if name == "trials.csv":
            written.append(now[0])
            now[0] += 1.0

    def monotonic() -> float:
        now[0] += 4.0
        return now[0]

    monkeypatch.setattr(study, "time", SimpleNamespace(monotonic=monotonic))
    monkeypatch.setattr(RunDirectory, "write_records", write_records)
    run_search(SearchSettings(n_trials=40, sampler="random"), fake_problem(), tmp_path / "run")
    first, last = written  # of five seconds each, and the end always writes
    assert 40.0 < last - first < 500.0
