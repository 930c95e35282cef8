"""Spaces: the shipped ones load and decode, and a round trip through params keeps the shape."""

import dataclasses

import numpy as np
import pytest
from problems import fake_problem, vit_facts

from autotok.errors import ConfigError
from autotok.searching.space.parameters import Parameter
from autotok.searching.space.space_file import load_space, space_from_dict
from autotok.searching.space.space_names import list_spaces

FACTS = vit_facts()


def random_chooser(seed: int):  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(seed)

    def choose(parameter: Parameter):  # type: ignore[no-untyped-def]
        if parameter.choices:
            return parameter.choices[int(rng.integers(len(parameter.choices)))]
        if parameter.integer:
            return int(rng.integers(int(parameter.low), int(parameter.high) + 1))
        return float(rng.uniform(parameter.low, parameter.high))

    return choose


@pytest.mark.parametrize("name", list_spaces())
def test_every_shipped_space_samples_and_decodes(name: str) -> None:
    space = load_space(name)
    for seed in range(60):
        params = space.walk(random_chooser(seed), FACTS)
        shape = space.decode(params, FACTS)
        assert list(shape.layers) == sorted(set(shape.layers))
        assert 0 <= shape.layers[0] <= shape.layers[-1] < FACTS.num_blocks
        assert shape.weights[-1] == pytest.approx(1.0)
        assert np.all(np.diff(shape.weights) >= 0)
        assert all(isinstance(v, bool | int | float | str) for v in params.values())


def test_the_default_space_has_every_plug_in_method_but_the_control() -> None:
    assert {"tome", "topk", "evit", "tofu", "pitome", "ltp"} <= set(
        load_space("default").candidates(FACTS)
    )
    assert not {"none", "random"} & set(load_space("default").candidates(FACTS))


def test_a_method_before_the_blocks_has_layer_zero_only() -> None:
    space = space_from_dict({"methods": ["ltp"]})
    params = space.walk(random_chooser(3), FACTS)
    assert "first_layer" not in params
    assert space.decode(params, FACTS).layers == (0,)


def test_encoding_a_published_schedule_finds_its_layers_again() -> None:
    space = load_space("default")
    params = space.encode("topk", (3, 6, 9), (0.7, 0.49, 0.343), FACTS)
    shape = space.decode(params, FACTS)
    assert shape.layers == (3, 6, 9)
    assert np.allclose(shape.weights, (1 / 3, 2 / 3, 1.0), atol=1e-3)


def test_encoding_a_constant_r_gives_every_layer_the_same() -> None:
    space = load_space("default")
    ratios = [1 - 13 * (i + 1) / 196 for i in range(12)]
    params = space.encode("tome", range(12), ratios, FACTS)
    assert params["family"] == "every"
    assert abs(float(params["inflection"])) < 1e-6
    assert space.decode(params, FACTS).layers == tuple(range(12))


def test_a_condition_restricts_an_answer() -> None:
    space = load_space("merging")
    families = set()
    for seed in range(80):
        params = space.walk(random_chooser(seed), FACTS)
        if params["method"] == "pitome":
            families.add(params["family"])
    assert families == {"ratio", "stages"}


def test_a_fixed_option_reaches_the_configuration() -> None:
    space = space_from_dict({"methods": ["evit"], "options": {"evit": {"fuse": False}}})
    params = space.walk(random_chooser(0), FACTS)
    assert "evit.fuse" not in params
    assert space.decode(params, FACTS).options["fuse"] is False


def test_a_space_that_only_retrains_is_refused_where_nothing_can_be_fine_tuned() -> None:
    with pytest.raises(ConfigError, match="only retrains, and nothing can be fine-tuned here"):
        fake_problem(space=space_from_dict({"methods": ["topk"], "mode": ["retrain"]}))


def test_number_formats_are_a_question_of_methods_that_can_be_exported_only() -> None:
    space = space_from_dict({"methods": ["tome", "topk", "avit"], "mode": ["plug-in", "retrain"],
                             "formats": ["float32", "int8"]})  # fmt: skip
    seen: dict[str, set[str]] = {}
    for seed in range(200):
        params = space.walk(random_chooser(seed), FACTS)
        shape = space.decode(params, FACTS)
        seen.setdefault(shape.method, set()).add(shape.number_format)
        config = shape.config(shape.counts(np.array([0.5]), FACTS)[0], FACTS)
        assert config.number_format == shape.number_format == params["number_format"]
    assert seen["tome"] == seen["topk"] == {"float32", "int8"}
    assert seen["avit"] == {"float32"}
    alone = dataclasses.replace(space, number_formats=("int8",))
    assert alone.candidates(FACTS) == ("tome", "topk")


def test_a_space_of_float32_asks_nothing_of_number_formats() -> None:
    params = load_space("default").walk(random_chooser(0), FACTS)
    assert "number_format" not in params


def test_image_sizes_are_a_question_and_the_own_one_has_no_name() -> None:
    facts = dataclasses.replace(vit_facts(), one_size="")
    space = space_from_dict({"methods": ["tome"], "image_size": [224, 112, 112]})
    assert space.image_sizes == (112, 224)
    assert space.candidates(facts) == ("none", "tome")
    params = space.encode("tome", (3, 6), (0.5, 0.25), facts, image_size=112)
    shape = space.decode(params, facts)
    assert shape.image_size == 112
    config = shape.config(shape.counts(np.array([0.5]), facts)[0], facts)
    assert config.image_size == 112
    assert all((r.num_keep or 0) <= 49 for r in config.reductions)
    own = space.encode("tome", (3, 6), (0.5, 0.25), facts)
    assert (own["image_size"], space.decode(own, facts).image_size) == (224, None)
