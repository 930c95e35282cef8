"""What a run keeps with its study, so that who goes on with it, or asks for more, gets no less."""

import dataclasses
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from clocked import Workers, follow
from problems import FakeEvaluator, fake_problem, vit_facts

from autotok.config import CompressionConfig
from autotok.evaluation.tally import Tally
from autotok.finetune_spec import Length
from autotok.searching.engines.base import InProcessEngine, Outcome, run_job
from autotok.searching.proposing.identity import StudyIdentity
from autotok.searching.proposing.proposals import Proposals
from autotok.searching.proposing.tried import Named, TriedProposals
from autotok.searching.records.record import TrialRecord
from autotok.searching.records.rundir import RunDirectory
from autotok.searching.running.events import Event, TrialFinished
from autotok.searching.running.loop import Search
from autotok.searching.running.opening import resume_search, run_search
from autotok.searching.running.search_result import SearchResult
from autotok.searching.running.time_limit import Around
from autotok.searching.space.finetuning import FineTuneChoices
from autotok.searching.space.parameters import Condition
from autotok.searching.space.problem import Problem, Tuned
from autotok.searching.space.settings import FidelityPlan, SearchSettings
from autotok.searching.space.space_file import load_space


class LastFirst(InProcessEngine):
    """Two jobs at a time, of which the later one ends first."""

    capacity = 2

    def collect(self) -> Outcome:
        self._jobs.rotate(1)
        return super().collect()


class Trained(list[str]):
    """Of an evaluator in another process than the one that fine-tuned."""

    def __contains__(self, config_id: object) -> bool:
        return True


def trainable(**changes: object) -> Problem:
    evaluator = FakeEvaluator(vit_facts())
    evaluator.tuned = Trained()
    space = dataclasses.replace(load_space("default"), **changes)  # type: ignore[arg-type]
    return fake_problem(space=space, evaluate=evaluator, finetune=evaluator.finetune)


def clocked(
    monkeypatch: pytest.MonkeyPatch,
    evaluate: Callable[..., Any] | None = None,
    workers: Workers | None = None,
) -> Workers:
    """Workers whose clock all time limits go by, from 0."""
    found = workers or Workers(1, image_s=0.02)
    found._accuracy = evaluate or FakeEvaluator(vit_facts())
    follow(found, monkeypatch)
    return found


def finetunes(result: SearchResult) -> list[tuple[int, int | None, object]]:
    told = [r for r in result.records if r.base is not None]
    return [(r.number, r.base, r.config and r.config.finetune) for r in told]


def test_more_time_goes_into_the_final_evaluation_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, folder = fake_problem(total_images=6000), tmp_path / "run"
    settings = SearchSettings(n_trials=8, timeout_s=60.0, min_trials=1)
    first = run_search(settings, problem, folder, engine=clocked(monkeypatch), around=Around(0.0))
    more = resume_search(
        problem, folder, engine=clocked(monkeypatch), around=Around(0.0), timeout_s=1000.0
    )
    assert more.plan.final > 4 * first.plan.final


def test_a_run_that_goes_on_without_a_time_limit_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, folder = fake_problem(total_images=6000), tmp_path / "run"
    settings = SearchSettings(n_trials=8, timeout_s=20.0, sampler="random", control_shapes=0)
    slow = clocked(monkeypatch, workers=Workers(1, image_s=0.1))
    first = run_search(settings, problem, folder, engine=slow, around=Around(0.0))
    assert first.stopped_by == "timeout_s"
    assert first.plan.final < 6000
    more = resume_search(problem, folder, engine=clocked(monkeypatch), timeout_s=0)
    assert more.evaluated == 8
    assert more.settings.timeout_s is None
    assert more.best is not None
    assert more.best.score is not None
    assert more.best.score.num_images == 6000
    again = resume_search(problem, folder, engine=clocked(monkeypatch))
    assert (again.settings, again.best) == (more.settings, more.best)


def test_a_run_that_joins_a_study_counts_its_own_time_alone_and_again_when_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = fake_problem(total_images=4000)
    shared = SearchSettings(
        n_trials=6,
        timeout_s=60.0,
        sampler="random",
        storage=f"sqlite:///{tmp_path / 'study.db'}",
        study="shared",
        control_shapes=0,
        min_trials=1,
    )

    def seconds(records: Sequence[TrialRecord]) -> float:
        return sum(r.seconds for r in records)

    first = run_search(
        shared, problem, tmp_path / "a", engine=clocked(monkeypatch), around=Around(0.0)
    )
    assert seconds(first.records) > 15.0
    joining = dataclasses.replace(shared, join=True, n_trials=9)
    workers = clocked(monkeypatch)
    second = run_search(joining, problem, tmp_path / "b", engine=workers, around=Around(0.0))
    own = second.records[len(first.records) :]
    assert own
    assert second.seconds == pytest.approx(workers.now)
    for name, counted in (("b", own), ("a", first.records)):
        workers = clocked(monkeypatch)
        again = resume_search(problem, tmp_path / name, engine=workers, around=Around(0.0))
        assert again.seconds == pytest.approx(seconds(counted) + workers.now)


def test_what_had_no_time_limit_sets_no_more_aside_than_a_later_one_affords(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, folder = fake_problem(total_images=4000), tmp_path / "run"
    settings = SearchSettings(n_trials=6, sampler="random", control_shapes=0, min_trials=1)
    run_search(settings, problem, folder, engine=clocked(monkeypatch))
    workers = clocked(monkeypatch)
    more = resume_search(
        problem, folder, engine=workers, around=Around(0.0), n_trials=9, timeout_s=200.0
    )
    assert more.stopped_by == "n_trials"
    assert more.seconds < 220.0


class Turning(FakeEvaluator):
    """Right or wrong image by image; what is evaluated before the turn is worse than what comes
    after it, so that others are finalists then."""

    def __init__(self) -> None:
        super().__init__(vit_facts())
        self.early: set[str] = set()
        self.turned = False

    def judged(self, config: CompressionConfig, start: int, stop: int) -> Tally:
        share, name = self.accuracy(config), config.config_id
        if not self.turned:
            self.early.add(name)
        if config.reductions and name in self.early:
            share *= 0.8
        luck = [random.Random(f"{name} {i}").gauss(0.0, 0.02) for i in range(start, stop)]
        chance = [random.Random(i).random() for i in range(start, stop)]
        hits = "".join("01"[c + d < share] for c, d in zip(chance, luck, strict=True))
        return Tally("top1", len(hits), len(hits), hits.count("1"), hits=hits)


def test_an_extended_run_has_a_race_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluator, folder = Turning(), tmp_path / "run"
    problem = fake_problem(total_images=6000)
    problem = dataclasses.replace(problem, load_tally=lambda data: Tally(**data))
    settings = SearchSettings(
        n_trials=8, timeout_s=60.0, min_trials=1, images_few=32, images_more=64
    )
    around = Around(0.0)
    engine = clocked(monkeypatch, evaluator.judged)
    run_search(settings, problem, folder, engine=engine, around=around)
    evaluator.turned, engine = True, clocked(monkeypatch, evaluator.judged)
    more = resume_search(
        problem, folder, engine=engine, around=around, n_trials=30, timeout_s=120.0
    )
    raced = {r.number for r in more.front}
    assert raced - set(range(8))
    assert more.best is not None
    assert more.best.score is not None
    assert more.best.score.num_images == more.plan.final


def test_trials_that_are_all_fine_tuned_keep_to_the_time_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = dataclasses.replace(trainable(mode=("retrain",)), total_images=20_000)
    whole = problem.costs.cost(problem.whole).macs

    class Training(Workers):
        """A step takes as long as the forward passes that it is taken for."""

        def collect(self) -> Outcome:
            job = self._open[0]
            if job.task == "evaluate":
                return super().collect()
            self._open.popleft()
            spec, macs = job.config.finetune, problem.costs.cost(job.config).macs
            assert spec is not None
            steps = int(Length.parse(spec.length).amount)
            seconds = steps * spec.batch_size * (3 * macs + whole) / whole * self._image_s
            self.now += seconds
            return Outcome(job, None, seconds, "", Tuned(steps, 1, seconds, 0.5))

    workers = clocked(monkeypatch, problem.evaluate, Training(1, image_s=0.02))
    settings = SearchSettings(n_trials=8, timeout_s=400.0, min_trials=1, control_shapes=0)
    run = run_search(settings, problem, tmp_path / "run", engine=workers, around=Around(0.0))
    tuned = [r for r in run.records if r.tuned is not None]
    assert len(tuned) >= 4
    assert workers.now < 400.0


@pytest.mark.parametrize("seed", [0, 1])
def test_trials_that_end_by_the_clock_leave_room_for_the_fine_tune_that_is_planned(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = dataclasses.replace(trainable(), total_images=20_000)

    class Training(Workers):
        def collect(self) -> Outcome:
            if self._open[0].task == "evaluate":
                return super().collect()
            self.now += 30.0
            done = run_job(problem, self._open.popleft())
            assert done.tuned is not None
            return dataclasses.replace(done, tuned=dataclasses.replace(done.tuned, seconds=30.0))

    workers = clocked(monkeypatch, problem.evaluate, Training(1, image_s=0.02))
    settings = SearchSettings(
        n_trials=200, timeout_s=300.0, min_trials=4, retrain_trials=1, seed=seed, images_few=40
    )
    run = run_search(settings, problem, tmp_path / "run", engine=workers, around=Around(0.0))
    assert run.stopped_by == "timeout_s"
    assert sum(r.tuned is not None for r in run.records) == 1
    assert workers.now < 310.0


def test_a_run_that_goes_on_keeps_to_its_time_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = trainable(mode=("retrain",), methods=("dynamicvit",))
    problem = dataclasses.replace(problem, total_images=20_000)
    settings = SearchSettings(n_trials=4, timeout_s=100.0, min_trials=1, seed=1)

    class Training(Workers):
        def collect(self) -> Outcome:
            if self._open[0].task == "evaluate":
                return super().collect()
            self.now += 2.0
            return run_job(problem, self._open.popleft())

    def engine() -> Workers:
        return clocked(monkeypatch, problem.evaluate, Training(1, image_s=0.05))

    def killed(*given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("autotok.searching.running.study.final_evaluation", killed)
        with pytest.raises(KeyboardInterrupt):
            run_search(settings, problem, tmp_path / "run", engine=engine(), around=Around(0.0))
    workers = engine()
    resume_search(problem, tmp_path / "run", engine=workers, around=Around(0.0))
    assert workers.now < 120.0


def test_an_extension_that_fails_to_begin_is_not_lost(tmp_path: Path) -> None:
    class Broken(LastFirst):
        def start(self) -> float:
            raise RuntimeError("no memory for workers")

    problem = fake_problem()
    run_search(SearchSettings(n_trials=6), problem, tmp_path / "run")
    (tmp_path / "run" / "report.json").touch()
    assert RunDirectory(tmp_path / "run").handed_over
    with pytest.raises(RuntimeError):
        resume_search(problem, tmp_path / "run", n_trials=12, engine=Broken(problem))
    assert not RunDirectory(tmp_path / "run").handed_over
    assert resume_search(problem, tmp_path / "run").evaluated == 12


def test_trials_asked_for_are_trials_beside_fine_tunes_and_more_of_them_earn_more(
    tmp_path: Path,
) -> None:
    first = run_search(SearchSettings(n_trials=8), trainable(), tmp_path / "run")
    assert len(finetunes(first)) == 1
    more = resume_search(trainable(), tmp_path / "run", n_trials=24)
    plugged = [r for r in more.records if r.base is None and r.evaluated]
    assert len(plugged) == 24
    assert len(finetunes(more)) == 3


def test_the_first_fine_tune_is_the_same_whichever_ends_first(tmp_path: Path) -> None:
    choices = FineTuneChoices({"losses": ("soft", "ce", "ce+soft"), "length": ("auto", "auto/2")})
    problem, settings = trainable(finetune=choices), SearchSettings(n_trials=16, seed=3)

    def stop(event: Event) -> None:
        if isinstance(event, TrialFinished) and event.record.base is not None:
            raise KeyboardInterrupt

    whole = run_search(settings, problem, tmp_path / "whole", engine=LastFirst(problem))
    with pytest.raises(KeyboardInterrupt):
        run_search(settings, problem, tmp_path / "killed", stop, engine=LastFirst(problem))
    again = resume_search(problem, tmp_path / "killed", engine=LastFirst(problem))
    assert finetunes(again)[0] == finetunes(whole)[0]


def test_what_cannot_be_fine_tuned_uses_up_no_fine_tune(tmp_path: Path) -> None:
    names = ("tofu", "tome", "pitome")  # the best of the fake evaluator
    kept = Condition({"method": names}, {"mode": ("plug-in",)})
    settings = SearchSettings(n_trials=24)
    result = run_search(settings, trainable(conditions=(kept,)), tmp_path / "run")
    assert sum(r.tuned is not None for r in result.records) == 3


@pytest.mark.parametrize("sampler", ["tpe", "nsgaii"])
def test_samplers_see_trials_in_logical_order_whichever_ends_first(
    sampler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = fake_problem()
    settings = SearchSettings(n_trials=30, sampler=sampler)
    live: list[dict[str, object]] = []
    close = Proposals.close

    def closing(self: Proposals) -> None:
        live.append(self.propose(99))
        close(self)

    monkeypatch.setattr(Proposals, "close", closing)
    run_search(settings, problem, tmp_path / "run", engine=LastFirst(problem))
    resume_search(problem, tmp_path / "run")
    assert live[0] == live[1]


def test_an_orderly_end_is_no_death_of_the_trial_in_hand(tmp_path: Path) -> None:
    problem, settings = fake_problem(), SearchSettings(n_trials=6)
    folder = tmp_path / "study.log"
    for _ in range(8):
        proposals = Proposals(
            settings, problem, folder, StudyIdentity(run="one", access="join", crashed=True)
        )
        proposals.in_process = True
        assert Search(settings, problem, proposals, FidelityPlan(4, 8, 8)).ask() is not None
        proposals.close()
    assert not proposals.deaths


def test_a_shape_whose_mean_was_over_the_budget_may_be_tried_cheaper(tmp_path: Path) -> None:
    result = run_search(SearchSettings(n_trials=4), fake_problem(), tmp_path / "run")
    record = dataclasses.replace(result.records[-1], state="infeasible", feasible=False)
    tried = TriedProposals()
    tried.take_in([record])
    cheaper = Named({**record.params, "budget_fraction": 0.31})
    assert tried.is_new(cheaper)
    assert not tried.is_new(Named(record.params))
    tried.take_in([dataclasses.replace(record, number=99, config=None)])
    assert not tried.is_new(cheaper)
