"""What a method says it is held to is what the golden files show."""

from runner import GOLDEN, opened
from test_goldens import elsewhere, readers

from autotok.methods import get_method, list_methods
from autotok.methods.evidence import held_to


def covered() -> set[str]:
    """Methods with a file in tests/golden that compares a whole model."""
    found = set()
    for path in sorted(GOLDEN.glob("*.npz")):
        if elsewhere(path):
            continue
        with opened(path) as (config, arrays):
            found.add(readers()[config["method"]](config, arrays).config.method)
    return found - {"none"}


def test_methods_that_name_a_source_have_a_file_and_the_others_have_none() -> None:
    own = {n for n in list_methods() if get_method(n).__module__.startswith("autotok.")}
    claimed = {name for name in own if held_to(name).to != "none"}
    assert claimed == covered()
