"""Small notations of the command line, read or refused."""

from collections.abc import Callable

import pytest

import autotok
from autotok.api.arguments import (
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
