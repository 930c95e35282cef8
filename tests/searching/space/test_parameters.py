"""A question of a search space knows its answers."""

import pytest

from autotok.errors import ConfigError
from autotok.methods.base import Option
from autotok.searching.space.parameters import Parameter, number, of_option


def test_a_choice_takes_an_answer_that_is_none_of_its_own_for_the_first() -> None:
    family = Parameter("family", ("stages", "every"))
    assert [family.cast(word) for word in ("every", "ratio")] == ["every", "stages"]
    assert family.only is None
    assert Parameter("family", ("every",)).only == "every"


def test_a_number_stays_inside_its_range_and_whole_where_it_is() -> None:
    assert number("spacing", (0.2, 1.0)).cast(7) == 1.0
    assert number("num_stages", (1, 4), integer=True).cast(2.6) == 3
    assert number("num_stages", (2, 2), integer=True).only == 2


def test_options_of_methods_ask_in_their_own_ranges() -> None:
    flag = of_option("tome", Option("prop_attn", True, "a switch", search=True))
    count = of_option("dpcknn", Option("neighbours", 5, "a count", low=1, high=20, search=True))
    assert flag == Parameter("tome.prop_attn", (False, True))
    assert (count.low, count.high, count.integer) == (1, 20, True)


def test_an_option_without_a_range_cannot_be_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"fix it in the space under options: tome: r: 0\.5"):
        of_option("tome", Option("r", 0.5, "a share", search=True))


def test_true_answers_no_question_for_a_number() -> None:
    share = Parameter("share", low=0.0, high=1.0)
    assert share.allows(1)
    assert not share.allows(True)
