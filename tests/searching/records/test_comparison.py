"""What of a final evaluation is more than noise."""

import csv
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from evidence import IMAGES, final, hits, record, tally
from problems import fake_problem

from autotok.searching.records.comparison import Comparisons, Standing, compare_front
from autotok.searching.records.final import Final
from autotok.searching.records.finetune_gain import (
    HELPED,
    tuning_gain,
)
from autotok.searching.records.objective import Objective, make_objectives
from autotok.searching.records.record import TrialRecord
from autotok.searching.running.opening import run_search
from autotok.searching.space.settings import SearchSettings

BETTER = "1" * 360 + "0" * 40
WORSE = "1" * 300 + "0" * 100


def one(found: Comparisons, number: int) -> Standing:
    standing = found.of(number)
    assert standing is not None
    return standing


def test_every_member_of_the_last_word_stands_beside_the_best_and_the_uncompressed() -> None:
    last = final()
    found = compare_front(last)
    assert [s.role for s in found.standings] == [
        "best",
        *["front"] * 4,
        *["control"] * 3,
        "reference",
    ]
    for standing in found.standings:
        assert (standing.against_best is None) == (standing.role == "best")
        assert (standing.against_reference is None) == (standing.role == "reference")
    assert one(found, -2).against_best is not None
    assert one(found, -2).words == "worse than the best"


def test_a_cheaper_configuration_within_noise_is_called_a_tie_with_its_cost() -> None:
    found = compare_front(final())
    assert [s.method for s in found.cheaper_ties] == ["evit"]
    assert one(found, 5).words == "tie with the best at 54 % of its cost"
    assert one(found, 3).words == "worse than the best"


def test_a_tie_at_the_same_cost_is_not_called_cheaper() -> None:
    outcomes = hits(0.8, seed=1)
    best, other = record(1, "tome", 2.0, outcomes), record(2, "topk", 1.99, outcomes)
    found = compare_front(Final((other, best), best, None, (), None))
    assert one(found, 2).words == "tie with the best at about its cost"
    assert found.cheaper_ties == ()


def test_a_best_that_wins_within_noise_ties_with_its_runner_up() -> None:
    outcomes = hits(0.8, seed=1)
    flipped = outcomes.replace("1", "0", 1)  # one image fewer
    best, other = record(1, "tome", 2.0, outcomes), record(2, "topk", 1.0, flipped)
    found = compare_front(Final((other, best), best, None, (), None))
    assert found.best is not None
    assert found.best.words == "tie with the runner-up"
    assert found.runner_up is one(found, 2)
    assert found.best.against_next is not None
    assert found.best.against_next.difference == pytest.approx(100 / IMAGES)


def test_the_runner_up_is_the_next_by_the_first_objective_or_else_a_control() -> None:
    best = record(1, "tome", 2.0, BETTER)
    cheap, good = record(2, "topk", 0.5, hits(0.3)), record(3, "evit", 1.5, WORSE)
    last = Final((cheap, good, best), best, None, (), None)
    for names in (("quality", "macs_g"), ()):
        objectives = make_objectives(names, "top1") if names else ()
        assert one(compare_front(last, objectives), 1).next_number == 3
    by_cost = make_objectives(("macs_g", "quality"), "top1")
    assert one(compare_front(last, by_cost), 1).next_number == 2
    control = record(-2, "random", 2.0, WORSE, origin="control")
    alone = compare_front(Final((best,), best, control, (control,), None))
    assert one(alone, 1).next_number == -2


def test_others_on_the_front_are_compared_with_the_next_cheaper() -> None:
    found = compare_front(final())
    assert [one(found, n).next_number for n in (12, 5, 8, 3)] == [5, 8, 3, None]


def test_records_without_outcomes_are_left_uncompared() -> None:
    last = final()
    strip = {"tally": {"hits": 37.5, "num_images": 40}}
    front = tuple(dataclasses.replace(r, **strip) for r in last.front)  # type: ignore[arg-type]
    best = next(r for r in front if last.best is not None and r.number == last.best.number)
    found = compare_front(dataclasses.replace(last, front=front, best=best))
    assert all(s.against_best is None and s.words == "" for s in found.standings)
    assert found.cheaper_ties == ()
    nothing = compare_front(Final((), None, None, (), None))
    assert (nothing.best, nothing.runner_up, nothing.standings) == (None, None, ())


def test_comparisons_survive_json_and_fill_columns() -> None:
    last = final()
    found = compare_front(last)
    assert Comparisons.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert Comparisons.from_dict(None) == Comparisons()
    columns = found.columns(last.front[2])
    assert columns["standing"] == "tie with the best at 54 % of its cost"
    assert columns["vs_best_low"] < columns["vs_best"] < columns["vs_best_high"]
    assert columns["vs_uncompressed_verdict"] in ("tie", "worse", "better")
    assert columns["next_number"] == 8
    assert "tuning_gain" in found.columns(last.front[1])


def test_divergences_are_compared_too() -> None:
    def kl(values: list[float]) -> dict[str, object]:
        return {**tally(""), "metric": "kl", "kls": values}

    retrained = dataclasses.replace(
        record(4, "tome", 1.0, BETTER, untuned=WORSE),
        tally=kl([0.1, 0.12, 0.1, 0.11]),
        untuned=kl([0.3, 0.31, 0.3]),
    )
    gain = tuning_gain(retrained)
    assert gain is not None
    assert gain.verdict == HELPED
    assert gain.plugged == pytest.approx(0.91 / 3)


def test_a_search_writes_its_comparisons(tmp_path: Path) -> None:
    run_search(SearchSettings(n_trials=6), fake_problem(), tmp_path / "run")
    data = json.loads((tmp_path / "run" / "pareto.json").read_text())
    found = Comparisons.from_dict(data["comparisons"])
    assert [s.number for s in found.standings if s.role == "reference"] == [-1]
    with open(tmp_path / "run" / "pareto.csv", newline="", encoding="utf-8") as file:
        assert all("standing" in row for row in csv.DictReader(file))


def test_the_runner_up_comes_nearest_over_the_same_images_not_by_means_over_others() -> None:
    best = record(1, "tome", 2.0, "1" * 60 + "0" * 40)
    nearest = record(2, "evit", 1.8, "1" * 58 + "0" * 42)
    early = record(3, "topk", 1.9, "1" * 32 + "0" * 8)  # 80 %, of images that the best has all of
    quality = make_objectives(["quality", "macs_g"], "top1")
    found = compare_front(Final((best, nearest, early), best, None, (), None), quality)
    assert found.best is not None
    assert found.best.next_number == 2


def of_kl(found: TrialRecord, kl: float) -> TrialRecord:
    assert found.score is not None
    return dataclasses.replace(found, score=dataclasses.replace(found.score, kl=kl))


def test_a_divergence_is_said_to_have_chosen_only_where_it_can_have() -> None:
    best, tie = of_kl(record(1, "tome", 2.0, BETTER), 0.1), record(2, "evit", 1.0, BETTER)
    top1 = make_objectives(("top1", "macs"), "top1")

    def ties(*others: TrialRecord, objectives: Sequence[Objective] = top1) -> list[int]:
        found = compare_front(Final((*others, best), best, None, (), None), objectives)
        return [standing.number for standing in found.ties]

    farther = of_kl(tie, 0.4)
    assert ties(farther) == [2]
    assert ties(farther, objectives=make_objectives(("macs", "top1"), "top1")) == []
    assert ties(farther, of_kl(record(3, "topk", 1.5, BETTER), 0.05)) == []  # a nearer one
    assert ties(of_kl(record(3, "topk", 1.5, BETTER[:300]), 0.4)) == []  # seen on fewer images
    assert ties(of_kl(record(3, "topk", 1.5, WORSE), 0.4)) == []
    assert farther.config is not None
    elsewhere = dataclasses.replace(farther.config, backbone="another")
    assert ties(dataclasses.replace(farther, config=elsewhere)) == []
