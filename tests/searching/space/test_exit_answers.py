"""Which answers about exits a method can stand beside."""

import pytest

from autotok.errors import ConfigError
from autotok.methods.registry import get_method
from autotok.searching.space.exit_answers import exit_answers, exits_for, whole_grid_until

ANSWERS = ("none", "linear@3,6", "lgvit@4,6,8,10")


@pytest.mark.parametrize(
    ("method", "known"),
    [
        ("none", ANSWERS[1:]),  # nothing else would be taken away
        ("topk", ANSWERS),
        ("ats", ("none",)),  # its counts depend on the image already
        ("cfvit", ("none",)),  # stops images by itself
    ],
)
def test_exits_go_with_methods_of_fixed_counts(method: str, known: tuple[str, ...]) -> None:
    assert exits_for(get_method(method), ANSWERS) == known


def test_only_depthwise_convolutions_need_the_whole_grid() -> None:
    assert [whole_grid_until(answer) for answer in ANSWERS] == [0, 0, 5]


@pytest.mark.parametrize(
    ("words", "message"),
    [(("none",), "exits name no exit"), (("none", "linear"), "exits 'linear' are not understood")],
)
def test_answers_that_mean_nothing_are_refused(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        exit_answers(words)
