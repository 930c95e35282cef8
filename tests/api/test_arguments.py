"""Small notations of the command line, read or refused."""

import pytest

import autotok
from autotok.api.arguments import parse_keep, parse_options
from autotok.errors import ConfigError


def test_small_notations_are_read_or_refused() -> None:
    assert parse_keep("0.7@3, 0.5@6") == {3: 0.7, 6: 0.5}
    assert parse_options(["alpha=0.5", "fuse=false", "score=cls"]) == {
        "alpha": 0.5,
        "fuse": False,
        "score": "cls",
    }
    with pytest.raises(ConfigError, match="RATIO@LAYER"):
        parse_keep("0.7")
    with pytest.raises(ConfigError, match="NAME=VALUE"):
        parse_options(["alpha"])


def test_a_cost_is_a_number_of_operations() -> None:
    assert autotok.parse_macs("2.3GFLOPs") == pytest.approx(2.3e9)
    for text in ("26ms", "50%"):
        with pytest.raises(ConfigError, match=f"cost '{text}' is no number of operations"):
            autotok.parse_macs(text)
