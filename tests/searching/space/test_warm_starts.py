"""Where a search begins."""

from problems import vit_facts

from autotok.searching.space.space_file import load_space
from autotok.searching.space.warm_starts import warm_starts

FACTS = vit_facts()


def test_warm_starts_hold_every_method_once_at_least() -> None:
    space = load_space("default")
    starts = warm_starts(space, FACTS)
    assert {str(p["method"]) for p in starts} == set(space.candidates(FACTS))
    assert all(p["budget_fraction"] == 1.0 for p in starts)
