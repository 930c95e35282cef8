"""Where a search begins."""

from itertools import pairwise

from problems import vit_facts

from autotok.searching.space.space_file import load_space, space_from_dict
from autotok.searching.space.warm_starts import warm_starts

FACTS = vit_facts()


def test_warm_starts_hold_every_method_once_at_least() -> None:
    space = load_space("default")
    starts = warm_starts(space, FACTS)
    assert {str(p["method"]) for p in starts} == set(space.candidates(FACTS))


def test_however_few_warm_starts_are_run_they_are_spread_over_the_costs() -> None:
    fractions = [float(p["budget_fraction"]) for p in warm_starts(load_space("default"), FACTS)]
    assert fractions[:4] == [1.0, 0.5, 0.75, 0.25]
    for many in range(2, len(fractions) + 1):  # no gap is wider than twice the even one
        edges = sorted([0.0, *fractions[:many], 1.0])
        assert max(b - a for a, b in pairwise(edges)) <= 2.0 / many


def test_where_structure_is_searched_too_published_schedules_start_at_the_limit() -> None:
    from test_subnets import FACTS as SUPERNET
    from test_subnets import joint_problem

    found = warm_starts(joint_problem().space, SUPERNET)
    assert [p["method"] for p in found[:2]] == ["none", "none"]  # the default and the smallest
    schedules = [float(p["budget_fraction"]) for p in found if p["method"] != "none"]
    assert schedules[:4] == [1.0, 0.5, 0.75, 0.25]


def test_number_formats_take_turns() -> None:
    space = space_from_dict({"methods": ["tome", "evit", "topk"], "formats": ["float32", "int8"]})
    found = [params["number_format"] for params in warm_starts(space, vit_facts())]
    assert found == (["float32", "int8"] * len(found))[: len(found)]
