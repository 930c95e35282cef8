"""Published schedules are rescaled to other models and always feasible."""

import pytest

from autotok.methods import get_method, list_methods
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


@pytest.mark.parametrize(("blocks", "patches"), [(4, 16), (12, 256), (13, 196), (24, 576), (6, 9)])
@pytest.mark.parametrize("method", METHODS)
def test_every_schedule_is_feasible_anywhere(method: str, blocks: int, patches: int) -> None:
    cls = get_method(method)
    schedules = published_schedules(method, blocks, patches)
    assert schedules
    for schedule in schedules:
        entering = patches
        for reduction in schedule.reductions:
            low, high = cls.feasible(entering, cls.resolve_options({}))
            assert reduction.num_keep is not None
            assert low <= reduction.num_keep <= high
            assert 0 <= reduction.layer < blocks
            entering = reduction.num_keep
