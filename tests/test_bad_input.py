"""What cannot work is refused in one sentence that says what is allowed or what is missing."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import autotok
from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone
from autotok.compression.official import load_official
from autotok.compression.schedule import realise
from autotok.config import CompressionConfig, Primitive, Reduction
from autotok.errors import (
    AutotokError,
    CheckpointError,
    ConfigError,
    IncompatibleMethod,
    UnknownName,
)
from autotok.facts import BackboneFacts
from autotok.methods import Count, Kind, Training, get_method, list_methods
from autotok.methods.base import Option, Span
from autotok.methods.observing import observed_needs
from autotok.methods.official_weights import OfficialWeights
from autotok.testing import example_config

FACTS = tiny_backbone().facts  # 4 blocks, 16 patches
METHODS = [name for name in list_methods() if get_method(name).kind is not Kind.NONE]
STATIC = [name for name in METHODS if get_method(name).count is Count.STATIC]
BY_CLASS = [name for name in METHODS if "score" in {o.name for o in get_method(name).options}]
LEARNED = [name for name in METHODS if get_method(name).training_need is Training.REQUIRED]
RANGED = [
    pytest.param(name, option, id=f"{name}-{option.name}")
    for name in METHODS
    for option in get_method(name).options
    if not option.choices and not isinstance(option.default, (bool, str))
]
CHOSEN = [
    pytest.param(name, option, id=f"{name}-{option.name}")
    for name in METHODS
    for option in get_method(name).options
    if option.choices
]


def config(method: str, *keep: int | float | None, **options: Primitive) -> CompressionConfig:
    """Reductions from the method's first layer on: counts, or ratios where they are floats."""
    first = get_method(method).first_layer
    reductions = tuple(
        Reduction(first + number, keep_ratio=amount)
        if isinstance(amount, float)
        else Reduction(first + number, num_keep=amount)
        for number, amount in enumerate(keep)
    )
    return CompressionConfig(method, reductions, options)


def sentence(error: pytest.ExceptionInfo[AutotokError]) -> str:
    """The message, which is one line and no longer than a reader takes in."""
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 400
    return text


def refused(
    chosen: CompressionConfig,
    facts: BackboneFacts = FACTS,
    kind: type[AutotokError] = ConfigError,
) -> str:
    with pytest.raises(kind) as error:
        realise(chosen, facts)
    return sentence(error)


# --- amounts


@pytest.mark.parametrize("method", METHODS)
def test_a_count_out_of_reach_names_ratios_that_are_in_reach(method: str) -> None:
    text = refused(config(method, 0))
    found = re.search(r"feasible: (\d+) to (\d+), that is keep_ratio ([\d.]+) to ([\d.]+)", text)
    assert found is not None, text
    low, high = int(found.group(1)), int(found.group(2))
    for ratio in (float(found.group(3)), float(found.group(4))):
        (site,) = realise(config(method, ratio), FACTS).sites
        assert low <= site.num_keep <= high


@pytest.mark.parametrize("method", METHODS)
def test_one_token_below_what_a_method_can_leave_is_refused_and_the_least_is_not(
    method: str,
) -> None:
    cls = get_method(method)
    least, _ = cls.feasible(FACTS.num_patches, cls.resolve_options({}))
    assert f"feasible: {least} to" in refused(config(method, least - 1))
    assert realise(config(method, least), FACTS).kept == (least,)


@pytest.mark.parametrize("method", METHODS)
def test_more_tokens_than_arrive_are_refused_with_how_many_do(method: str) -> None:
    cls = get_method(method)
    assert "only 16 arrive" in refused(config(method, 17))
    if cls.span is Span.REST and not cls.single_layer:
        assert "asked to keep 13 patch tokens, but only 12 arrive" in refused(
            config(method, 12, 13)
        )
    elif not cls.single_layer:
        assert realise(config(method, 12, 13), FACTS).kept == (12, 13)


@pytest.mark.parametrize("method", STATIC)
def test_a_fixed_count_method_without_a_count_says_what_to_give(method: str) -> None:
    assert "gives neither keep_ratio nor num_keep" in refused(config(method, None))


@pytest.mark.parametrize("method", [m for m in METHODS if get_method(m).single_layer])
def test_a_method_that_reduces_once_says_so(method: str) -> None:
    assert "reduces once, but 2 layers are given" in refused(config(method, 12, 8))


@pytest.mark.parametrize("method", [m for m in METHODS if get_method(m).first_layer])
def test_a_method_that_looks_back_names_its_first_layer(method: str) -> None:
    chosen = CompressionConfig(method, (Reduction(0, num_keep=12),))
    assert "its first layer is 1" in refused(chosen)


@pytest.mark.parametrize("method", METHODS)
def test_a_layer_beyond_the_last_names_the_layers_there_are(method: str) -> None:
    chosen = CompressionConfig(method, (Reduction(4, num_keep=12),))
    assert "has 4 blocks (0-3)" in refused(chosen)


# --- options


@pytest.mark.parametrize("method", METHODS)
def test_an_unknown_option_is_named_with_those_there_are(method: str) -> None:
    text = refused(config(method, 15, treshold=1.0))
    assert "option 'treshold'" in text
    assert "known: " in text
    if "threshold" in {option.name for option in get_method(method).options}:
        assert "did you mean 'threshold'?" in text


@pytest.mark.parametrize(("method", "option"), RANGED)
def test_a_number_out_of_range_is_refused_with_the_range(method: str, option: Option) -> None:
    assert option.low is not None
    kind = type(option.default)
    wrong = [kind(option.low - 1)] if option.high is None else [
        kind(option.low - 1), kind(option.high + 1),
    ]  # fmt: skip
    for value in (*wrong, *([float("nan")] if kind is float else [])):
        text = refused(config(method, 15, **{option.name: value}))
        assert f"'{option.name}'" in text
        assert f"outside [{option.low}, " in text


@pytest.mark.parametrize(("method", "option"), CHOSEN)
def test_a_word_that_is_no_choice_is_refused_with_the_choices(method: str, option: Option) -> None:
    text = refused(config(method, 15, **{option.name: "sideways"}))
    assert all(str(choice) in text for choice in option.choices)


# --- what the backbone lacks


@pytest.mark.parametrize("method", METHODS)
def test_a_missing_need_is_named(method: str) -> None:
    bare = dataclasses.replace(
        FACTS,
        has_cls=False,
        cls_is_supervised=False,
        has_position_table=False,
        num_classes=0,
        image_shape=(4, *FACTS.image_shape[1:]),
        name="bare",
    )
    required = get_method(method).requires
    if not required:
        assert realise(config(method, 15), bare).kept == (15,)
        return
    text = refused(config(method, 15), bare, IncompatibleMethod)
    assert "which backbone 'bare' lacks" in text
    assert ("an absolute position table" in text) == ("position_table" in required)


@pytest.mark.parametrize("method", BY_CLASS)
def test_class_attention_without_a_class_token_names_the_way_out(method: str) -> None:
    no_class = dataclasses.replace(FACTS, has_cls=False, cls_is_supervised=False, num_prefix=0)
    cls = get_method(method)
    options = cls.resolve_options({"score": "cls"})

    def ask() -> None:  # as while a model is put together
        cls.resolve_needs(no_class, options)
        observed_needs(cls, (2,), no_class, options)

    with pytest.raises(IncompatibleMethod) as error:
        ask()
    assert "use 'column' or 'auto'" in sentence(error)


def test_an_unknown_method_is_named_with_the_nearest_one() -> None:
    with pytest.raises(UnknownName) as error:
        realise(CompressionConfig("dynamicvlt"), FACTS)
    assert "did you mean 'dynamicvit'?" in str(error.value)


# --- weights


@pytest.mark.parametrize("method", LEARNED)
def test_a_learned_method_without_weights_says_how_to_get_them(method: str) -> None:
    backbone = tiny_backbone()
    with pytest.raises(IncompatibleMethod) as error:
        autotok.compress(backbone, example_config(get_method(method), backbone.facts))
    text = sentence(error)
    assert "must be trained" in text
    assert f"autotok finetune --method {method}" in text


@pytest.mark.parametrize("method", METHODS)
def test_somebody_elses_checkpoint_is_refused(method: str, tmp_path: Path) -> None:
    backbone = tiny_backbone()
    path = tmp_path / "other.safetensors"
    save_file({"blocks.0.attn.qkv.weight": torch.zeros(3, 3)}, path)
    with pytest.raises(CheckpointError) as error:
        autotok.compress(backbone, example_config(get_method(method), backbone.facts), weights=path)
    text = sentence(error)
    assert f"method '{method}'" in text
    assert "other.safetensors" in text


OFFICIAL = {
    "dynamicvit": "score_predictor.{}.in_conv.1.weight",
    "dtps": "score_predictor.{}.in_conv.1.weight",
    "spvit": "score_predictor.{}.in_conv.0.1.weight",
    "heatvit": "score_predictor.{}.in_conv.0.1.weight",
    "tofe": "selectors.{}.fc1.weight",
    "tofe-instance": "selectors.{}.fc1.weight",
    "cropr": "cropr.{}.cross_attn.queries",
    "dtem": "blocks.{}.attn.metric.weight",
    "ltmp": "blocks.{}.merge_threshold",
    "diffrate": "blocks.{}.prune_ddp.selected_probability",
    "sit": "cluster_layers.{}.weight.1.weight",
    "sinkhorn": "cluster_layers.{}.v",
    "patchmerger": "cluster_layers.{}.queries",
}
"""A parameter of each method by its authors' name, the braces standing for stage or block."""


def learned(method: str) -> type[OfficialWeights]:
    found = get_method(method)
    assert issubclass(found, OfficialWeights)
    return found


@pytest.mark.parametrize("method", OFFICIAL)
def test_authors_weights_that_do_not_fit_are_refused(method: str) -> None:
    backbone = tiny_backbone()
    model = compress_backbone(backbone, example_config(get_method(method), backbone.facts))
    first = 1 if learned(method).official_by_block else 0  # blocks 1 and 2 reduce
    key = OFFICIAL[method].format(first)
    with pytest.raises(CheckpointError) as error:
        load_official(model, {key: torch.zeros(7, 5)}, origin="wide.pth")
    assert "has shape (7, 5)" in sentence(error)


@pytest.mark.parametrize("method", [m for m in OFFICIAL if m != "diffrate"])
def test_authors_weights_of_one_layer_only_are_refused(method: str) -> None:
    backbone = tiny_backbone()
    model = compress_backbone(backbone, example_config(get_method(method), backbone.facts))
    first = 1 if learned(method).official_by_block else 0
    key = OFFICIAL[method].format(first)
    place = learned(method).official_name(key)
    assert place is not None
    own = model.reducers["1"].get_parameter(place[1])
    with pytest.raises(CheckpointError) as error:
        load_official(model, {key: torch.zeros_like(own)}, origin="part.pth")
    assert f"'part.pth' has no parameters of method '{method}' for layer" in sentence(error)


@pytest.mark.parametrize("method", ["cropr", "dtem", "ltmp", "diffrate"])
def test_weights_that_authors_number_by_block_go_to_the_layers_of_these_blocks(method: str) -> None:
    backbone = tiny_backbone()
    cls = learned(method)
    model = compress_backbone(backbone, example_config(cls, backbone.facts))  # layers 1 and 2
    tensors = {}
    for name, own in model.reducers["1"].named_parameters():
        for block in range(backbone.facts.num_blocks):
            for key in _keys(method, block):
                if (cls.official_name(key) or (0, ""))[1] == name:
                    tensors[key] = torch.full_like(own, float(block))
    load_official(model, tensors)
    for layer in (1, 2):
        key = OFFICIAL[method].format(layer)
        _, ours = cls.official_name(key) or (0, "")
        expected = cls.from_official(ours, torch.tensor(float(layer)))
        found = model.reducers[str(layer)].get_parameter(ours)
        assert bool((found == expected).all())


def _keys(method: str, block: int) -> list[str]:
    """All of a method's names for one block."""
    one = OFFICIAL[method].format(block)
    swaps = {"weight": "bias", "merge": "prune", "prune": "merge"}
    return [one, *(one.replace(a, b) for a, b in swaps.items() if a in one)]


def test_papr_without_its_network_says_so() -> None:
    backbone = tiny_backbone()
    model = compress_backbone(backbone, config("papr", 8))
    reducer = model.reducers["0"]
    reducer.network = None
    with pytest.raises(ConfigError) as error, torch.no_grad():
        model(torch.zeros(1, *backbone.facts.image_shape))
    assert "needs its proxy network" in sentence(error)
