"""What a pruned ViT keeps, in words and in hexadecimal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotok.errors import ConfigError
from autotok.pruned_spec import PrunedSpec, listed_units, units_text


def test_units_are_bits_from_the_highest_on() -> None:
    assert units_text([0, 3, 5], 8) == "94"  # 1001 0100
    assert listed_units("94") == [0, 3, 5]


@given(st.sets(st.integers(0, 99), min_size=1))
def test_units_come_back_as_they_were_listed(kept: set[int]) -> None:
    assert listed_units(units_text(sorted(kept), 100)) == sorted(kept)


def test_a_structure_is_told_in_a_few_words() -> None:
    spec = PrunedSpec((0, 2), ((0, 1), (2,)), ("f0", "80"))
    assert spec.widths == (4, 1)
    assert spec.short == "2 blocks, heads 1-2, MLP 1-4"


@pytest.mark.parametrize(
    ("blocks", "heads", "units", "words"),
    [
        ((0, 1), ((0,),), ("f",), "lists 2 blocks, heads of 1 and units of 1"),
        ((1, 0), ((0,), (0,)), ("f", "f"), r"keeps blocks \[1, 0\]; give whole numbers"),
        ((0,), ((),), ("f",), r"keeps heads \[\]"),
        ((0,), ((0,),), ("00",), "keeps units '00'; give a hexadecimal number"),
        ((0,), ((0,),), ("xy",), "keeps units 'xy'"),
    ],
)
def test_a_structure_that_cannot_be_is_refused(
    blocks: tuple[int, ...], heads: tuple[tuple[int, ...], ...], units: tuple[str, ...], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        PrunedSpec(blocks, heads, units)
