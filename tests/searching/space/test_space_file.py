"""Space files: read, or refused by the key that is wrong."""

import pytest

from autotok.backbones.tiny import tiny_backbone
from autotok.errors import ConfigError, UnknownName
from autotok.searching.space.space_file import load_space, space_from_dict


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"metods": ["tome"]}, "did you mean 'methods'"),
        ({"schedule": {"tapper": [1, 2]}}, "did you mean 'taper'"),
        ({"schedule": {"num_stages": [3, 1]}}, r"give \[low, high\]"),
        ({"schedule": {"families": ["stage"]}}, "did you mean 'stages'"),
        ({"options": {"evit": {"fus": True}}}, "did you mean 'fuse'"),
        ({"formats": ["int9"]}, "did you mean 'int8'"),
        ({"image_size": [224, 0]}, "image_size 0 is no side of an image"),
        ({"image_size": []}, "image_size: .*empty list"),
        ({"conditions": [{"when": {"metod": "tome"}}]}, "did you mean 'method'"),
        ({"conditions": [{"then": {"tome.proportion": 1}}]}, "did you mean 'tome.proportional'"),
        ([1], "must be a mapping"),
        ({"version": 2}, "reads version 1"),
    ],
)
def test_a_wrong_file_is_refused_by_its_key(data: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        space_from_dict(data)


def test_an_unknown_method_in_a_space_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'tome'"):
        space_from_dict({"methods": ["tomee"]})


def test_an_unknown_space_lists_the_known_ones() -> None:
    with pytest.raises(UnknownName, match="did you mean 'default'"):
        load_space("defualt")


@pytest.mark.parametrize(
    ("then", "words"),
    [({"family": "stagess"}, "can be stages, every"), ({"first_layer": [99]}, "can be 0 to 2")],
)
def test_a_condition_that_leaves_no_answer_is_refused(then: dict[str, object], words: str) -> None:
    space = space_from_dict({"methods": ["tome"], "conditions": [{"then": then}]})
    with pytest.raises(ConfigError, match=f"{words}.*name some of these"):
        space.walk(lambda p: p.choices[0] if p.choices else int(p.low), tiny_backbone().facts)
