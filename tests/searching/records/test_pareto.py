"""Dominance, fronts and hypervolume on points small enough to check by hand."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotok.config import CompressionConfig
from autotok.counting.cost import Cost
from autotok.searching.records.objective import make_objectives
from autotok.searching.records.pareto import (
    Front,
    best_of,
    crowding,
    dominating,
    front_mask,
    hypervolume,
    thin,
)
from autotok.searching.records.record import Score, TrialRecord
from autotok.searching.space.budget import Budget, worst_excess

STAIRS = np.array([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0], [3.0, 3.0]])


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_the_front_is_whom_nobody_dominates(columns: int) -> None:
    points = np.random.default_rng(columns).integers(0, 12, size=(60, columns)).astype(float)
    alone = [not dominating(points, point).any() for point in points]
    assert front_mask(points).tolist() == alone


def test_a_point_dominates_only_if_it_is_better_somewhere() -> None:
    points = np.array([[1.0, 1.0], [1.0, 2.0], [0.0, 3.0]])
    assert dominating(points, np.array([1.0, 2.0])).tolist() == [True, False, False]


def test_the_front_leaves_out_the_dominated_corner() -> None:
    assert front_mask(STAIRS).tolist() == [True, True, True, False]


def test_equal_points_are_both_on_the_front() -> None:
    assert front_mask(np.array([[1.0, 1.0], [1.0, 1.0]])).all()


def test_crowding_is_infinite_at_the_ends() -> None:
    distance = crowding(STAIRS[:3])
    assert np.isinf(distance[[0, 2]]).all()
    assert distance[1] == pytest.approx(2.0)


def test_thinning_keeps_the_extremes_and_drops_the_most_crowded() -> None:
    points = np.array([[0.0, 4.0], [0.1, 3.9], [2.0, 2.0], [4.0, 0.0]])
    assert thin(points, 3).tolist() == [0, 2, 3]
    assert thin(points, 9).tolist() == [0, 1, 2, 3]


def test_hypervolume_in_two_dimensions_is_the_area_of_the_stairs() -> None:
    # columns of width 1 under the reference (4, 4): heights 1, 2, 3
    assert hypervolume(STAIRS, np.array([4.0, 4.0])) == pytest.approx(6.0)


def test_points_beyond_the_reference_count_nothing() -> None:
    assert hypervolume(np.array([[5.0, 0.0]]), np.array([4.0, 4.0])) == 0.0


def test_hypervolume_in_three_dimensions_is_a_union_of_boxes() -> None:
    points = np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0]])
    # boxes 2x1x1 and 1x2x1 up to (2, 2, 2), overlapping in 1x1x1
    assert hypervolume(points, np.array([2.0, 2.0, 2.0])) == pytest.approx(3.0)


def test_hypervolume_agrees_with_counting_random_points() -> None:
    rng = np.random.default_rng(0)
    points = rng.random((12, 3))
    samples = rng.random((40_000, 3))
    covered = (samples[:, None] >= points[None]).all(axis=2).any(axis=1).mean()
    assert hypervolume(points, np.ones(3)) == pytest.approx(covered, abs=0.01)


# --- the front of records, against a look at all pairs

ASKED = {1: ("quality",), 2: ("quality", "macs"), 3: ("params", "quality", "macs")}
SMALL = st.integers(0, 4)


def record(number: int, quality: int, macs: int, params: int, state: str) -> TrialRecord:
    score = Score("top1", float(quality), 0.0, 100.0, 10)
    costs = Cost(macs, macs, params)
    return TrialRecord(number, state, CompressionConfig(), costs=costs, score=score)


def beats(a: TrialRecord, b: TrialRecord, size: int) -> bool:
    """Word for word: no worse anywhere, better somewhere."""
    pairs = []
    for one, other in ((a, b), (b, a)):
        assert one.score is not None
        assert other.score is not None
        assert one.costs is not None
        assert other.costs is not None
        better = {
            "quality": one.score.value > other.score.value,
            "macs": one.costs.macs < other.costs.macs,
            "params": one.costs.params < other.costs.params,
        }
        pairs.append([better[name] for name in ASKED[size]])
    return any(pairs[0]) and not any(pairs[1])


@settings(max_examples=300, deadline=None)
@given(
    rows=st.lists(st.tuples(SMALL, SMALL, SMALL, st.sampled_from(["complete"] * 5 + ["failed"]))),
    size=st.sampled_from(sorted(ASKED)),
)
def test_the_front_kept_is_what_nothing_measured_dominates_in_any_order(
    rows: list[tuple[int, int, int, str]], size: int
) -> None:
    records = [record(number, *row) for number, row in enumerate(rows)]
    objectives = make_objectives(ASKED[size], "top1")
    measured = [r for r in records if r.state == "complete"]
    expected = [r for r in measured if not any(beats(o, r, size) for o in measured)]
    front, back = Front(objectives, records), Front(objectives, records[::-1])
    assert sorted(r.number for r in front.records) == [r.number for r in expected]
    assert [r.number for r in back.records] == [r.number for r in front.records]
    costs = [r.costs.macs for r in front.records if r.costs is not None]
    assert costs == sorted(costs)
    for other in records:
        assert front.has_room_for(other) is not any(beats(r, other, size) for r in expected)


@given(rows=st.lists(st.tuples(SMALL, SMALL, SMALL, st.just("complete")), min_size=1))
def test_the_best_is_on_the_front_and_first_by_the_first_objective(
    rows: list[tuple[int, int, int, str]],
) -> None:
    records = [record(number, *row) for number, row in enumerate(rows)]
    best = Front(make_objectives(ASKED[2], "top1"), records).best
    assert best is not None
    assert best.score is not None
    assert best.costs is not None
    most = max(row[0] for row in rows)
    assert best.score.value == most
    assert best.costs.macs == min(row[1] for row in rows if row[0] == most)


def test_what_is_called_best_stays_on_the_front_even_if_another_dominates_it() -> None:
    luckier, cheaper = record(0, 4, 2, 1, "complete"), record(1, 3, 1, 1, "complete")
    best = record(2, 3, 3, 1, "complete")
    front = Front(make_objectives(ASKED[2], "top1"), [luckier, cheaper, best])
    assert front.records == [cheaper, luckier]
    front.keep(best)
    front.keep(cheaper)
    assert front.records == [cheaper, luckier, best]


def test_there_is_no_best_of_nothing() -> None:
    assert best_of([], make_objectives(ASKED[2], "top1")) is None


@given(values=st.lists(st.lists(SMALL, min_size=3, max_size=3), max_size=8))
def test_hypervolume_is_the_number_of_unit_cubes_that_some_point_dominates(
    values: list[list[int]],
) -> None:
    points = np.array(values, dtype=float).reshape(-1, 3)
    cubes = itertools.product(range(5), repeat=3)
    covered = sum(any(all(p <= c) for p in points) for c in map(np.array, cubes))
    assert hypervolume(points, np.full(3, 5.0)) == pytest.approx(covered)


def test_the_excess_is_that_of_the_budget_missed_most() -> None:
    budgets = (Budget("macs", 100.0, "100"), Budget("throughput_img_s", 50.0, "50img/s"))
    assert worst_excess(budgets, {"macs": 110.0, "throughput_img_s": 40.0}) == pytest.approx(
        50 / 40 - 1
    )
    assert worst_excess(budgets, {"macs": 110.0}) == pytest.approx(0.1)  # the other is not known
    assert worst_excess(budgets, {"macs": 90.0, "throughput_img_s": 60.0}) < 0.0
    assert worst_excess((), {"macs": 1.0}) == 0.0


def test_a_front_of_records_is_what_admitting_them_one_by_one_gives() -> None:
    objectives = make_objectives(("quality", "macs_g"), "top1")
    points = np.random.default_rng(3).integers(1, 12, size=(60, 2))
    records = [
        TrialRecord(
            n,
            "complete" if n % 5 else "failed",
            CompressionConfig("topk", (), {"number": n}),
            costs=Cost(int(macs) * 10**9, 1, 1),
            score=Score("top1", float(top1), 0.0, 100.0, 10),
        )
        for n, (top1, macs) in enumerate(points)
    ]
    grown = Front(objectives)
    for record in records:
        grown.admit(record)
    assert Front(objectives, records).records == grown.records
    assert len(grown.records) > 1
