"""Dataclasses from YAML by their types, and mistakes named with file, line and key."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from autotok.documents import parse_yaml
from autotok.errors import ConfigError
from autotok.plain_data import to_plain, typed


@dataclass(frozen=True)
class Wheel:
    size: float
    spokes: int = 36

    def __post_init__(self) -> None:
        if self.size <= 0:
            raise ConfigError("a wheel has a size above 0")


@dataclass(frozen=True)
class Bicycle:
    name: str
    wheels: tuple[Wheel, ...] = ()
    gears: tuple[int, int] | None = None
    lit: bool = False
    colour: str | tuple[str, ...] = "red"
    owner: int | str = ""
    extras: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    notes: Any = None


def bicycle(text: str) -> Bicycle:
    return typed(Bicycle, *parse_yaml(text, "bike.yaml"))


def test_a_file_becomes_the_dataclass_it_describes() -> None:
    found = bicycle(
        "name: tandem\nwheels: [{size: 28}, {size: 2.6e1, spokes: 32}]\ngears: [3, 8]\n"
        "colour: [red, blue]\nextras: {bell: true, rack: 1.5e-3}\nnotes: [2026-01-31, {1: a}]\n"
    )
    assert found == Bicycle(
        "tandem", (Wheel(28), Wheel(26.0, 32)), (3, 8), colour=("red", "blue"),
        extras={"bell": True, "rack": 0.0015}, notes=["2026-01-31", {1: "a"}],
    )  # fmt: skip


def test_an_alias_means_what_it_names_and_an_exponent_is_a_number() -> None:
    found = bicycle("name: a\nwheels: [&front {size: 1e2}, *front]\n")
    assert found.wheels == (Wheel(100.0), Wheel(100.0))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: a\nlit: yes please", "bike.yaml:2: lit: must be true or false, got 'yes please'"),
        ("name: a\nlit: 1", "bike.yaml:2: lit: must be true or false, got 1"),
        ("name: 7", "bike.yaml:1: name: must be text, got 7"),
        ("name:", "bike.yaml:1: name: must be text, got nothing"),
        ("lit: true", "bike.yaml:1: lacks the key 'name'"),
        ("- a", "bike.yaml:1: must be a mapping, got a list of 1"),
        ("", "bike.yaml: must be a mapping, got nothing"),
        ("name: a\n\nweels: []", "bike.yaml:3: key 'weels' is unknown; did you mean 'wheels'?"),
        (
            "name: a\nwheels:\n- size: 2\n- spokes: 3",
            "bike.yaml:4: wheels[1]: lacks the key 'size'",
        ),
        ("name: a\nwheels:\n- size: -2", "bike.yaml:3: wheels[0]: a wheel has a size above 0"),
        ("name: a\nwheels: [{size: .nan}]", "wheels[0].size: must be a finite number, got nan"),
        ("name: a\nwheels: [{size: true}]", "wheels[0].size: must be a number, got True"),
        ("name: a\nwheels: [{size: 1, spokes: 2.5}]", "spokes: must be a whole number, got 2.5"),
        ("name: a\nwheels: {size: 1}", "wheels: must be a list, got a mapping"),
        ("name: a\ngears: [1, 2, 3]", "gears: must be a list of 2, got a list of 3"),
        ("name: a\nextras: {bell: [1]}", "extras.bell: must be one of true or false, a whole"),
        (
            "name: a\nowner: true",
            "bike.yaml:2: owner: must be one of a whole number, text, got True",
        ),
        ("name: a\nextras: {bell: .inf}", "extras.bell: must be one of"),
        ("name: a\nlit: true\nname: b", "bike.yaml:3: name: is given twice, first in line 1"),
        ("name: a\nnotes: {x: {y: 1, y: 2}}", "bike.yaml:2: notes.x.y: is given twice"),
        ("name: a\nnotes: {[1]: 2}", "bike.yaml:2: notes: key '...' is not text"),
        ("name: a\nnotes: !!int x", "bike.yaml:2: notes: 'x' is no int that can be read"),
        ("name: a\nnotes: " + "9" * 5000, "bike.yaml:2: notes: '9999"),
        ("name: a\nnotes: 9999999999999999999", "notes: 9999999999999999999... is too large"),
        ("name: a\nnotes: !!timestamp 2026-13-45", "timestamp' is not allowed; leave it out"),
        ("name: a\nnotes: !!python/name:os.system x", "python/name:os.system' is not allowed"),
        ("name: a\nnotes: " + "[" * 3000, "bike.yaml:2: is not valid YAML (nested more than 32"),
        ("name: a\nnotes: &loop [*loop]", "or an alias to itself"),
        ("name: a\nnotes: *b", "bike.yaml:2: is not valid YAML (found undefined alias 'b')"),
        ("name: a\x00", "is not valid YAML"),
    ],
)
def test_a_mistake_is_one_sentence_with_file_line_and_key(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        bicycle(text)
    assert words in str(error.value)
    assert str(error.value).isprintable()


def test_plain_data_without_a_file_names_what_it_is_of() -> None:
    with pytest.raises(ConfigError, match=r"^bicycle: wheels\[0\]\.size: must be a number"):
        typed(Bicycle, {"name": "a", "wheels": [{"size": "big"}]}, "bicycle")


def test_what_an_error_quotes_stays_on_one_line_and_short() -> None:
    error = ConfigError(f"name 'a\n\x1b[31mb' and {'x' * 5000} are no good")
    assert str(error).isprintable()
    assert len(str(error)) < 300
    assert r"a\n\x1b[31mb" in str(error)


def test_plain_data_is_read_back_equal_whatever_it_nests() -> None:
    bicycle = Bicycle("swift", (Wheel(28.0), Wheel(26.0, 32)), (3, 9), colour=("red", "blue"))
    text = json.dumps(to_plain((bicycle, None, "word")))
    back = json.loads(text)
    assert back[1:] == [None, "word"]
    assert back[0]["wheels"][1] == {"size": 26.0, "spokes": 32}
    assert back[0]["gears"] == [3, 9]
    assert typed(Bicycle, back[0], "test") == bicycle
