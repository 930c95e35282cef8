"""Small notations of the command line, read or refused."""

from collections.abc import Callable

import pytest

import autotok
from autotok.api.arguments import (
    option_text,
    parse_files,
    parse_keep,
    parse_loss_weights,
    parse_options,
    parse_resources,
)
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


def test_losses_are_weighed_by_one_unless_told_otherwise() -> None:
    assert parse_loss_weights(["soft", "ce=0.5"]) == {"soft": 1.0, "ce": 0.5}
    with pytest.raises(ConfigError, match="loss 'soft=much' is not understood; write NAME=WEIGHT"):
        parse_loss_weights(["soft=much"])


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (lambda: parse_keep("0.7@1,0.5@01"), "keep ratio of layer 1"),
        (lambda: parse_options(["alpha=1", "alpha=2"]), "option 'alpha'"),
        (lambda: parse_loss_weights(["soft=1", "soft=2"]), "loss 'soft'"),
        (lambda: parse_resources(["GPU=1", "GPU =2"]), "resource 'GPU'"),
        (lambda: parse_files(["tiny=a.pth", "tiny=b.pth"]), "'tiny'"),
    ],
)
def test_what_is_given_twice_is_refused_and_not_half_taken(
    read: Callable[[], object], words: str
) -> None:
    with pytest.raises(ConfigError, match=f"{words} is given twice; give it once"):
        read()


@pytest.mark.parametrize(
    "value",
    [True, 3, 0.1, 1e-05, 1e30, "cls", "file of mine.pth", "12", "true", "a: b", "1e5", "x #y", ""],
)
def test_an_option_is_written_as_it_is_read(value: object) -> None:
    read = parse_options([option_text("alpha", value)])["alpha"]
    assert (read, type(read)) == (value, type(value))


def test_powers_of_ten_are_numbers() -> None:
    assert parse_options(["a=1e-5", "b=-2.5E3"]) == {"a": 1e-5, "b": -2500.0}
