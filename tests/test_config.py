"""`CompressionConfig`: round trips, identity, and what it refuses."""

import copy
import dataclasses
import math
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from autotok.config import CompressionConfig, Reduction, SubnetSpec, round_count
from autotok.errors import ConfigError

reductions = st.lists(
    st.builds(
        Reduction,
        layer=st.integers(0, 30),
        keep_ratio=st.none() | st.floats(0.01, 1.0),
        options=st.dictionaries(st.sampled_from(["a", "b"]), st.integers(0, 3)),
    ),
    max_size=4,
    unique_by=lambda r: r.layer,
)
configs = st.builds(
    CompressionConfig,
    method=st.sampled_from(["tome", "evit", "none"]),
    reductions=reductions.map(tuple),
    options=st.dictionaries(st.sampled_from(["x", "y"]), st.booleans() | st.floats(0, 1)),
    mode=st.sampled_from(["plug-in", "retrain"]),
    subnet=st.none() | st.just(SubnetSpec(96, (2, 3), (3.0, 4.0))),
)


@given(configs)
def test_json_and_yaml_round_trip_exactly(config: CompressionConfig) -> None:
    assert CompressionConfig.from_json(config.to_json()) == config
    through_yaml = yaml.safe_load(yaml.safe_dump(config.to_dict()))
    assert CompressionConfig.from_dict(through_yaml) == config
    assert CompressionConfig.from_dict(through_yaml).config_id == config.config_id


def test_the_order_of_layers_and_options_does_not_change_the_identity() -> None:
    a, b = Reduction(3, keep_ratio=0.7), Reduction(6, keep_ratio=0.5)
    one = CompressionConfig("topk", (a, b), {"p": 1, "q": 2})
    other = CompressionConfig("topk", (b, a), {"q": 2, "p": 1})
    assert one.config_id == other.config_id
    assert hash(one) == hash(other)
    assert one.config_id != CompressionConfig("topk", (a,)).config_id


def test_equal_configurations_and_only_those_share_their_id() -> None:
    whole = CompressionConfig("topk", (Reduction(3, keep_ratio=1),))
    written = CompressionConfig("topk", (Reduction(3, keep_ratio=1.0),))
    assert whole == written
    assert whole.config_id == written.config_id == "e88e6d7c9660"
    first, second = (CompressionConfig("pitome", options={"margin": m}) for m in (1, 1.0))
    assert (first == second) == (first.config_id == second.config_id)
    assert len({first, second, whole, written}) == 3
    assert first != "pitome"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"metod": "tome"}, "did you mean 'method'"),
        ({"reductions": [{"layer": 1, "keep_ration": 0.5}]}, "did you mean 'keep_ratio'"),
        ({"mode": "retrian"}, "did you mean 'retrain'"),
        ({"version": 99}, "version 99 is unknown"),
        ({"positions": "both"}, "known: carried, naive"),
        ({"reductions": [{"layer": 2}, {"layer": 2}]}, "twice"),
        ({"reductions": [{"layer": -1}]}, "count from 0"),
        ({"reductions": [{"layer": 1, "keep_ratio": 0.0}]}, "outside"),
        ({"reductions": [{"layer": 1, "keep_ratio": 0.5, "num_keep": 3}]}, "give one"),
        ({"reductions": ["layer 3"]}, "must be a mapping"),
        ({"subnet": {"embed_dim": 96, "heads": [2], "mlp_ratios": []}}, "one entry per layer"),
        ("tome", "must be a mapping"),
    ],
)
def test_mistakes_are_one_sentence_naming_the_key(data: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        CompressionConfig.from_dict(data)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_text_that_is_not_json_is_refused() -> None:
    with pytest.raises(ConfigError, match="not valid JSON"):
        CompressionConfig.from_json("{")


@given(st.integers(1, 2000), st.integers(1, 100))
def test_rounding_is_exact_for_every_percentage(total: int, percent: int) -> None:
    exact_floor, exact_ceil = percent * total // 100, -(-percent * total // 100)
    assert round_count(percent / 100, total, "floor") == exact_floor
    assert round_count(percent / 100, total, "ceil") == exact_ceil
    assert exact_floor <= round_count(percent / 100, total, "round") <= exact_ceil


def test_the_classic_rounding_traps_are_avoided() -> None:
    assert math.ceil(0.55 * 100) == 56
    assert round_count(0.55, 100, "ceil") == 55
    assert int(0.7 * 10) == 7
    assert round_count(0.29, 100, "floor") == 29 != int(0.29 * 100)


def test_an_image_size_is_part_of_the_identity_only_where_it_is_given() -> None:
    plain = CompressionConfig("tome", (Reduction(3, keep_ratio=0.5),))
    assert "image_size" not in plain.to_dict()
    sized = dataclasses.replace(plain, image_size=160)
    assert CompressionConfig.from_json(sized.to_json()) == sized
    assert sized.config_id != plain.config_id
    assert dataclasses.replace(sized, image_size=None).config_id == plain.config_id
    assert pickle.loads(pickle.dumps(sized)) == sized


@pytest.mark.parametrize("side", [0, -16, 5000])
def test_an_image_size_is_a_side_of_an_image(side: int) -> None:
    with pytest.raises(ConfigError, match=f"image_size {side} is no side of an image.* 4096"):
        CompressionConfig(image_size=side)


def test_a_configuration_of_one_of_several_backbones_says_which_and_others_stay_as_they_were() -> (
    None
):
    plain = CompressionConfig("tome", (Reduction(2, num_keep=9),))
    assert "backbone" not in plain.to_dict()
    named = dataclasses.replace(plain, backbone="tiny")
    assert named.to_dict() == plain.to_dict() | {"backbone": "tiny"}
    assert CompressionConfig.from_json(named.to_json()) == named
    assert named.config_id != plain.config_id
    assert copy.deepcopy(named) == named


def test_reductions_of_one_layer_and_count_are_read_as_one_object() -> None:
    data = {"method": "tome", "reductions": [{"layer": 3, "num_keep": 98}]}
    (one,), (other,) = (CompressionConfig.from_dict(data).reductions for _ in range(2))
    assert one is other == Reduction(3, num_keep=98)
    (apart,) = CompressionConfig.from_dict(
        {"method": "tome", "reductions": [{"layer": 3, "num_keep": 98, "options": {"a": 1}}]}
    ).reductions
    assert apart == Reduction(3, num_keep=98, options={"a": 1})


@pytest.mark.parametrize(
    ("reduction", "words"),
    [
        ({"layer": -1, "num_keep": 3}, "count from 0"),
        ({"layer": True, "num_keep": 3}, "whole number"),
        ({"layer": 1, "num_keep": 3.5}, "whole number"),
    ],
)
def test_a_wrong_layer_or_count_is_refused(reduction: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        CompressionConfig.from_dict({"method": "tome", "reductions": [reduction]})


ANY_REDUCTION: Any = Reduction
ANY_CONFIG: Any = CompressionConfig
"""As whoever has no type checker calls them."""


def test_numbers_of_numpy_are_python_s() -> None:
    plain = CompressionConfig("ltp", (Reduction(3, num_keep=5, options={"a": 2}),), {"b": 0.5})
    same = ANY_CONFIG(
        "ltp",
        (ANY_REDUCTION(np.int64(3), num_keep=np.int32(5), options={"a": np.int64(2)}),),
        {"b": np.float32(0.5)},
        image_size=None,
    )
    assert same.to_json() == plain.to_json()
    sized = ANY_CONFIG(image_size=np.int64(48))
    assert sized.to_json() == CompressionConfig(image_size=48).to_json()


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: ANY_REDUCTION("3", num_keep=5), "layer is '3'; give a whole number"),
        (lambda: ANY_REDUCTION(1.5, num_keep=5), "layer is 1.5"),
        (lambda: ANY_REDUCTION(3, num_keep=5.0), "num_keep is 5.0"),
        (lambda: ANY_REDUCTION(3, keep_ratio="half"), "keep_ratio 'half' at layer 3"),
        (lambda: ANY_REDUCTION(3, options=4), "options are 4; give a mapping"),
        (lambda: ANY_CONFIG(options=["a"]), "give a mapping"),
        (lambda: ANY_CONFIG(image_size="48"), "image_size is '48'"),
        (lambda: ANY_CONFIG("evit", Reduction(3, num_keep=5)), "give a tuple of Reduction"),
        (lambda: ANY_CONFIG("evit", ({3: 0.7},)), "give a tuple of Reduction"),
    ],
)
def test_a_value_of_another_type_is_refused_by_name(build: Callable[[], Any], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        build()
