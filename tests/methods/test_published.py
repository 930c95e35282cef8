"""Published schedules are rescaled to other models and always feasible."""

import author_units as knobs
import pytest

from autotok.methods import get_method, list_methods
from autotok.methods.base import Span
from autotok.methods.published import published_schedules

METHODS = [name for name in list_methods() if name != "none"]


def test_tomes_own_schedule_comes_back_on_its_own_model() -> None:
    schedule = published_schedules("tome", 12, 196)[0]
    assert [r.layer for r in schedule.reductions] == list(range(12))
    assert [r.num_keep for r in schedule.reductions] == [196 - 13 * i for i in range(1, 13)]
    assert "r = 13" in schedule.source


def test_evits_own_schedule_comes_back_on_its_own_model() -> None:
    schedule = published_schedules("evit", 12, 196)[0]
    assert [(r.layer, r.num_keep) for r in schedule.reductions] == [(3, 139), (6, 99), (9, 71)]


def test_layers_move_with_depth() -> None:
    assert [r.layer for r in published_schedules("topk", 24, 196)[0].reductions] == [6, 12, 18]
    assert [r.layer for r in published_schedules("topk", 4, 16)[0].reductions] == [1, 2, 3]


def test_an_unknown_schedule_is_an_empty_list() -> None:
    assert published_schedules("none", 12, 196) == []


def test_diffrates_own_lists_come_back_with_their_split() -> None:
    reductions = published_schedules("diffrate", 12, 196)[0].reductions
    assert [(r.layer, r.num_keep, r.options["num_pruned"]) for r in reductions[:3]] == [
        (1, 193, 1),
        (2, 175, 4),
        (3, 155, 8),
    ]
    assert reductions[-1].num_keep == 2
    prune, merge = knobs.to_diffrate(reductions, 196, num_blocks=12)
    assert prune == (197, 196, 190, 168, 150, 139, 129, 117, 99, 78, 58, 3)
    assert merge == (197, 194, 176, 156, 141, 133, 121, 107, 88, 64, 56, 3)


@pytest.mark.parametrize(("depth", "last"), [(12, 9), (24, 21)])
def test_croprs_own_schedule_leaves_out_the_two_last_blocks_of_any_model(
    depth: int, last: int
) -> None:
    reductions = published_schedules("cropr", depth, 196)[0].reductions
    assert [r.layer for r in reductions] == list(range(last + 1))
    if depth == 24:  # as its authors count, the class token left out: 188, 180 of 197
        assert [r.num_keep for r in reductions] == [196 - 1 - 8 * i for i in range(1, 23)]


def test_ppts_own_schedule_comes_back_on_its_own_model() -> None:
    schedule = published_schedules("ppt", 12, 196)[0]
    assert [(r.layer, r.num_keep) for r in schedule.reductions] == [(3, 146), (6, 96), (9, 48)]


def test_layers_that_park_tokens_are_kept_even_where_the_count_repeats() -> None:
    schedule = published_schedules("evovit", 12, 196)[0]
    assert [(r.layer, r.num_keep) for r in schedule.reductions] == [(4, 98), (8, 98)]


def test_an_entry_of_an_unknown_method_breaks_nothing() -> None:
    assert published_schedules("no such method", 12, 196) == []


@pytest.mark.parametrize(("blocks", "patches"), [(4, 16), (12, 256), (13, 196), (24, 576), (6, 9)])
@pytest.mark.parametrize("method", METHODS)
def test_every_schedule_is_feasible_anywhere(method: str, blocks: int, patches: int) -> None:
    cls = get_method(method)
    for schedule in published_schedules(method, blocks, patches):
        assert schedule.reductions
        entering = patches
        for reduction in schedule.reductions:
            low, high = cls.feasible(entering, cls.resolve_options({}))
            assert reduction.num_keep is not None
            assert low <= reduction.num_keep <= high
            assert 0 <= reduction.layer < blocks
            cls.resolve_options(reduction.options)
            entering = reduction.num_keep if cls.span is Span.REST else patches


@pytest.mark.parametrize("depth", [12, 16, 24])
def test_where_a_reduction_lasts_one_block_a_deeper_model_has_no_holes(depth: int) -> None:
    layers = [r.layer for r in published_schedules("idlevit", depth, 196)[0].reductions]
    assert layers == list(range(layers[0], layers[-1] + 1))
    assert len(layers) >= depth * 8 // 12 - 1
