"""Images of the final evaluation go to those that may still be the best."""

import dataclasses
import itertools
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from clocked import Workers
from evidence import hits, record
from problems import FakeEvaluator, fake_problem, vit_facts

from autotok.config import CompressionConfig
from autotok.errors import ConfigError
from autotok.evaluation.accuracy import Tally
from autotok.searching.records.objective import make_objectives
from autotok.searching.records.record import Score, TrialRecord
from autotok.searching.running.events import Event, FinalEvaluation
from autotok.searching.running.loop import REFERENCE
from autotok.searching.running.opening import resume_search, run_search
from autotok.searching.running.race import (
    challengers,
    final_front,
    goes_on,
    in_question,
    is_of_use,
    recommended,
)
from autotok.searching.running.search_result import SearchResult
from autotok.searching.running.time_limit import Around
from autotok.searching.space.settings import SearchSettings

OBJECTIVES = make_objectives(("top1", "macs"), "top1")


def test_what_is_told_from_the_best_leaves_and_ties_stay() -> None:
    best = record(1, "tome", 2.0, hits(0.9))
    tie = record(2, "evit", 1.9, hits(0.895, seed=2))
    worse = record(3, "topk", 1.0, hits(0.6, seed=3))
    assert in_question([best, tie, worse], OBJECTIVES, best) == [True, True, False]


def test_whoever_has_the_better_figure_stays_on_however_few_images() -> None:
    best = record(1, "tome", 2.0, hits(0.8))
    few = record(2, "evit", 1.9, "1" * 10)
    assert in_question([few], OBJECTIVES, best) == [True]


def test_no_more_than_the_better_half_goes_on_beside_the_uncompressed_model() -> None:
    best = record(1, "tome", 2.0, hits(0.91))
    ties = [record(n, "evit", 1.9, hits(0.9, seed=n)) for n in range(2, 7)]
    reference = record(REFERENCE, "none", 4.0, hits(0.89, seed=9))
    everybody = [*ties, reference, best]
    on = [r for r, on in zip(everybody, goes_on(everybody, OBJECTIVES, best), strict=True) if on]
    assert best in on
    assert reference in on
    assert len(on) == 3 + 1
    values = {r.number: r.score.value for r in ties if r.score}
    stayed = [values[r.number] for r in on if r.number in values]
    assert min(stayed) >= max(v for n, v in values.items() if v not in stayed)
    assert goes_on([*ties[:1], best], OBJECTIVES, best) == [True, True]


def test_where_cost_decides_nobody_leaves() -> None:
    objectives = make_objectives(("macs", "top1"), "top1")
    cheap, worse = record(1, "tome", 1.0, hits(0.9)), record(2, "topk", 2.0, hits(0.5))
    assert in_question([cheap, worse], objectives, cheap) == [True, True]
    assert goes_on([cheap, cheap, worse], objectives, cheap) == [True, True, True]


def test_challengers_are_those_near_the_best_that_the_front_left_out() -> None:
    best = record(1, "tome", 2.0, hits(0.9))
    near = [record(n, "evit", 2.1, hits(0.898, seed=n)) for n in (2, 3, 4)]
    far = record(5, "topk", 2.2, hits(0.5, seed=5))
    found = challengers([best], [*near, far, best], OBJECTIVES, most=2)
    values = [r.score.value for r in found if r.score]
    assert len(found) == 2
    assert far not in found
    assert values == sorted(values, reverse=True)


def test_nobody_is_on_the_front_for_having_seen_fewer_images() -> None:
    """The first hundred are easy: over them alone, the cheap one is as good as the costly one."""
    cheap = record(1, "tome", 1.0, "1" * 90 + "0" * 10 + hits(0.5, seed=2)[:100])
    costly = record(2, "evit", 2.0, "1" * 90 + "0" * 10)
    better = record(3, "topk", 3.0, "1" * 95 + "0" * 5)
    assert costly.score is not None
    assert cheap.score is not None
    assert costly.score.value > cheap.score.value
    assert final_front([better, costly, cheap], OBJECTIVES).records == [cheap, better]
    untold = dataclasses.replace(costly, tally=None)
    assert final_front([untold, cheap], OBJECTIVES).records == [cheap, untold]
    twin = dataclasses.replace(cheap, number=9)
    assert final_front([twin, better, cheap], OBJECTIVES).records == [cheap, better]


def at(record: TrialRecord, kl: float) -> TrialRecord:
    """The record, so far from the uncompressed model."""
    assert record.score is not None
    return dataclasses.replace(record, score=dataclasses.replace(record.score, kl=kl))


def test_of_what_images_do_not_tell_apart_the_nearest_to_the_uncompressed_model_is_best() -> None:
    lucky = at(record(1, "tome", 1.0, hits(0.9)), 0.2)
    near = at(record(2, "evit", 1.9, hits(0.895, seed=2)), 0.01)
    nearest = at(record(3, "topk", 1.5, hits(0.6, seed=3)), 0.001)  # but told to be worse
    assert recommended([lucky, near, nearest], OBJECTIVES) is near
    assert recommended([lucky, nearest], OBJECTIVES) is lucky


def test_a_second_opinion_is_heard_only_where_it_says_the_same_of_all() -> None:
    best = record(1, "tome", 1.0, hits(0.91))
    tie = record(2, "evit", 1.9, hits(0.895, seed=2))
    assert recommended([best, at(tie, 0.01)], OBJECTIVES) is best  # of the best there is none
    assert recommended([at(best, 0.2), tie], OBJECTIVES).number == 1  # type: ignore[union-attr]
    fewer = at(record(3, "evit", 1.9, hits(0.91)[:44] + "0" * 6), 0.01)
    tuned = at(record(4, "evit", 1.9, hits(0.895, seed=2), untuned=hits(0.5)), 0.01)
    elsewhere = on_backbone(at(tie, 0.01), "another")
    for other in (fewer, tuned, elsewhere):
        assert recommended([at(best, 0.2), other], OBJECTIVES).number == 1  # type: ignore[union-attr]
    cost = make_objectives(("macs", "top1"), "top1")
    assert recommended([at(best, 0.2), at(tie, 0.01)], cost).number == 1  # type: ignore[union-attr]
    assert recommended([], OBJECTIVES) is None


def test_among_ties_the_nearer_half_goes_on_and_the_best_so_far_with_it() -> None:
    ties = [at(record(n, "evit", 1.9, hits(0.895, seed=n)), 0.01 * n) for n in range(2, 8)]
    best = at(record(1, "tome", 2.0, hits(0.91)), 0.5)
    on = [
        r.number
        for r, on in zip([*ties, best], goes_on([*ties, best], OBJECTIVES, best), strict=True)
        if on
    ]
    assert on == [2, 3, 4, 5, 1]
    assert [r.number for r in challengers([best], ties[::-1], OBJECTIVES, most=2)] == [2, 3]


def test_a_tie_that_misses_the_least_quality_is_best_only_where_all_do() -> None:
    lucky = at(record(1, "tome", 1.0, hits(0.91)), 0.2)
    near = at(record(2, "evit", 1.9, hits(0.895, seed=2)), 0.01)
    assert lucky.score is not None
    assert near.score is not None
    assert near.score.value < lucky.score.value
    assert recommended([lucky, near], OBJECTIVES, near.score.value) is near
    assert recommended([lucky, near], OBJECTIVES, lucky.score.value) is lucky
    assert recommended([lucky, near], OBJECTIVES, 99.0) is near
    by_cost = make_objectives(("macs", "top1"), "top1")
    cheap = at(record(3, "topk", 0.5, hits(0.6, seed=3)), 0.4)
    assert recommended([lucky, near, cheap], by_cost) is cheap
    assert recommended([lucky, near, cheap], by_cost, near.score.value) is lucky


def on_backbone(record: TrialRecord, name: str) -> TrialRecord:
    assert record.config is not None
    return dataclasses.replace(record, config=dataclasses.replace(record.config, backbone=name))


def test_divergences_from_two_uncompressed_models_decide_nothing() -> None:
    """A backbone hardly compressed is near its uncompressed model however much worse that is."""
    outcomes = [hits(0.9, seed=n, noise=0.04) for n in range(1, 9)]
    ties = [at(record(n, "evit", 1.9, found), 1.0 / n) for n, found in enumerate(outcomes, 1)]
    two = [on_backbone(r, "ab"[r.number > 4]) for r in ties]
    best = max(two, key=lambda r: r.score.value if r.score else 0.0)

    def going(records: list[TrialRecord]) -> set[int]:
        stay = goes_on(records, OBJECTIVES, next(r for r in records if r.number == best.number))
        return {r.number for r, on in zip(records, stay, strict=True) if on}

    by_quality = sorted(two, key=lambda r: -r.score.value if r.score else 0.0)
    assert going(two) == {r.number for r in by_quality[:4]}
    assert going(ties) == {5, 6, 7, 8} | {best.number}
    found = challengers([best], two, OBJECTIVES, most=2)
    assert [r.number for r in found] == [r.number for r in by_quality[1:3]]


def test_what_is_better_than_the_best_on_the_images_of_both_stays_in_question() -> None:
    """The best may owe its figure to later images, which the other has not seen."""
    best = record(1, "tome", 2.0, "1" * 44 + "0" * 20 + "1" * 170 + "0" * 22)
    other = record(2, "evit", 1.0, "1" * 53 + "0" * 11)
    worse = record(3, "evit", 1.0, "1" * 25 + "0" * 39)
    assert in_question([other, worse], OBJECTIVES, best) == [True, False]


def test_a_quality_of_guessing_or_below_the_least_is_of_no_use() -> None:
    facts = dataclasses.replace(vit_facts(), num_classes=10)
    good = Score("top1", 80.0, 72.0, 88.0, 64, False)
    blind = Score("top1", 6.0, 3.0, 9.0, 64, False)
    assert not is_of_use(blind, facts, None)
    assert not is_of_use(dataclasses.replace(blind, value=18.0, low=8.0, high=36.0), facts, None)
    assert is_of_use(dataclasses.replace(blind, value=31.0, low=14.0, high=56.0), facts, None)
    assert is_of_use(good, facts, 75.0)
    assert not is_of_use(good, facts, 85.0)
    kl = Score("kl", 2.5, 2.4, 2.6, 64, False)
    assert not is_of_use(kl, facts, None)  # guessing is ln 10 = 2.3
    assert not is_of_use(dataclasses.replace(kl, value=2.1, low=1.8, high=2.4), facts, None)
    assert is_of_use(dataclasses.replace(kl, value=0.5, low=0.4, high=0.6), facts, 0.5)
    assert is_of_use(None, facts, 85.0)


class Images(FakeEvaluator):
    """Outcomes per image: hard images are hard for all."""

    def __call__(self, config: CompressionConfig, start: int, stop: int) -> Tally:  # type: ignore[override]
        share, marks = self.accuracy(config), ""
        self.calls.append((config.config_id, start, stop))
        for image in range(start, stop):
            luck = random.Random(f"{config.config_id} {image}").gauss(0.0, 0.02)
            marks += "1" if random.Random(image).random() + luck < share else "0"
        return Tally("top1", len(marks), len(marks), marks.count("1"), hits=marks)


def raced(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    image_s: float,
    told: Callable[[Event], None] = lambda event: None,
) -> tuple[SearchResult, Workers]:
    workers = Workers(1, image_s=image_s)
    workers._accuracy = Images(vit_facts())
    for module in ("time_limit", "final_evaluation", "final_controls"):
        clock = SimpleNamespace(monotonic=workers.monotonic)
        monkeypatch.setattr(f"autotok.searching.running.{module}.time", clock)
    problem = fake_problem(total_images=20_000)
    problem = dataclasses.replace(problem, load_tally=lambda data: Tally(**data))
    settings = SearchSettings(n_trials=20, timeout_s=100.0)
    run = run_search(settings, problem, folder, told, engine=workers, around=Around(0.0))
    return run, workers


def images_of(record: TrialRecord | None) -> int:
    assert record is not None
    assert record.score is not None
    return record.score.num_images


def test_the_best_has_seen_most_images_and_those_told_from_it_fewer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, workers = raced(tmp_path / "run", monkeypatch, image_s=0.02)
    assert workers.now <= 110.0
    seen = [images_of(r) for r in run.front]
    assert images_of(run.best) == max(seen)
    assert images_of(run.best) >= 2 * min(seen)
    assert all(images_of(c) < images_of(run.best) for c in run.final.controls)


def test_ever_fewer_race_until_the_best_and_its_runner_up_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Event] = []
    run, _ = raced(tmp_path / "run", monkeypatch, image_s=0.02, told=heard.append)
    assert run.best is not None
    finals = [e for e in heard if isinstance(e, FinalEvaluation) and e.record.origin != "control"]
    fields = list(dict.fromkeys(event.racing for event in finals))
    assert fields == sorted(fields, reverse=True)
    assert all(later <= before / 2 + 1.5 for before, later in itertools.pairwise(fields))
    assert fields[-1] <= 3  # with the uncompressed model


def test_a_resumed_race_runs_as_it_would_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, workers = raced(tmp_path / "run", monkeypatch, image_s=0.02)
    asked = len(workers.asked)
    problem = dataclasses.replace(
        fake_problem(total_images=20_000), load_tally=lambda data: Tally(**data)
    )
    again = resume_search(problem, tmp_path / "run", engine=workers, around=Around(0.0))
    assert len(workers.asked) == asked
    for one, two in zip(
        [*again.final.front, *again.final.controls],
        [*run.final.front, *run.final.controls],
        strict=True,
    ):
        assert (one.number, one.score) == (two.number, two.score)


def test_a_least_quality_that_nothing_has_is_said_and_not_kept_silent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = run_search(SearchSettings(n_trials=6, min_quality=99.9), fake_problem(), tmp_path / "run")
    assert run.best is not None
    assert "nothing evaluated is of the least quality, 99.9" in caplog.text
    with pytest.raises(ConfigError, match="min_quality is 300; give percent, 0 to 100"):
        SearchSettings(min_quality=300)
