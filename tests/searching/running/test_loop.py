"""A search whose judgements cost what they cost: the front, what makes room, what is trained."""

import dataclasses
from pathlib import Path

from problems import FakeEvaluator, fake_problem, vit_facts

from autotok.config import CompressionConfig
from autotok.evaluation.accuracy import Tally
from autotok.searching.records.finetune_gain import UNKNOWN, tuning_gains
from autotok.searching.running.opening import run_search
from autotok.searching.running.search_result import SearchResult
from autotok.searching.space.settings import SearchSettings
from autotok.searching.space.space_file import space_from_dict


class Adaptive(FakeEvaluator):
    """Images cost `factor` times what the counts say, those from the 200th on `late` times that."""

    def __init__(self, factor: float = 1.0, late: float = 1.0) -> None:
        super().__init__(vit_facts())
        self.factor, self.late = factor, late

    def macs(self, config: CompressionConfig) -> float:
        plain = fake_problem(facts=self.facts).costs.cost(config).macs
        exact = config.method == "random" or not config.reductions
        return plain if exact else plain * self.factor

    def __call__(self, config: CompressionConfig, start: int, stop: int) -> Tally:  # type: ignore[override]
        found = super().__call__(config, start, stop)
        number, right = stop - start, round(found.hits)
        hits, each = "1" * right + "0" * (number - right), self.macs(config)
        plain = Tally("top1", number, number, right, hits=hits)
        if config.method == "random" or not config.reductions:
            return plain
        macs = tuple(int(each * (self.late if i >= 200 else 1.0)) for i in range(start, stop))
        return dataclasses.replace(plain, macs=macs, macs_noattn=sum(macs))


def searched(
    evaluator: Adaptive, folder: Path, *, found_by_counter: float = 1.0, **space: object
) -> SearchResult:
    chosen = {"methods": ["topk", "tome"], **space}
    problem = dataclasses.replace(
        fake_problem(
            space=space_from_dict(chosen),
            evaluate=evaluator,  # type: ignore[arg-type]
            finetune=evaluator.finetune,
        ),
        load_tally=lambda data: Tally(**data),
        count=lambda config: found_by_counter * int(evaluator.macs(config)),
    )
    return run_search(SearchSettings(n_trials=12), problem, folder)


def limit_of(result: SearchResult) -> float:
    return 0.5 * fake_problem().costs.cost(CompressionConfig()).macs


def test_what_costs_too_much_on_average_is_never_on_the_front(tmp_path: Path) -> None:
    result = searched(Adaptive(factor=1.2), tmp_path / "run")
    limit = limit_of(result)
    assert {r.feasible for r in result.records if r.evaluated} == {True, False}
    for record in result.records:
        if record.evaluated and record.costs is not None:
            assert record.feasible == (record.costs.macs <= limit)
            assert record.state == ("complete" if record.feasible else "infeasible")
            assert record.feasible or "on average" in record.reason or "mean over" in record.reason
    assert result.front
    for record in [*result.front, result.best, result.final.random_control]:
        assert record is not None
        assert record.costs is not None
        assert record.costs.macs <= limit
        assert record.within_budget
    assert result.evaluated == 12


def test_what_more_images_show_to_cost_too_much_makes_room_for_others(tmp_path: Path) -> None:
    result = searched(Adaptive(late=1.6), tmp_path / "run")
    limit = limit_of(result)
    assert result.final.outside
    assert all("mean over 400 images" in r.reason for r in result.final.outside)
    assert result.front
    assert all(r.costs is not None and r.costs.macs <= limit for r in result.front)
    numbers = {r.number for r in result.front}
    assert not numbers & {r.number for r in result.final.outside}


def test_methods_that_must_be_trained_are_never_judged_plugged_in(tmp_path: Path) -> None:
    evaluator = Adaptive()
    result = searched(evaluator, tmp_path / "run", methods=["spvit", "topk"], mode=["retrain"])
    spvit = [r for r in result.records if r.config is not None and r.config.method == "spvit"]
    assert any(r.evaluated for r in spvit)
    for record in spvit:
        assert record.untuned is None
        assert not record.evaluated or record.tuned is not None
    gains = {g.number: g for g in tuning_gains(result.records)}
    assert all(gains[r.number].verdict == UNKNOWN for r in spvit if r.evaluated)


def test_nothing_stands_as_retrained_that_was_not_fine_tuned(tmp_path: Path) -> None:
    result = searched(Adaptive(), tmp_path / "run", mode=["retrain"])
    stopped = [r for r in result.records if r.stopped.startswith("before its fine-tune")]
    assert stopped
    for record in [*result.records, *result.front]:
        if record.evaluated and record.config is not None and record.config.reductions:
            assert (record.config.mode == "retrain") == (record.tuned is not None)
            assert record.row()["mode"] == record.config.mode
    assert all(r.drafted for r in stopped)
