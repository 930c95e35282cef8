"""ViTs of transformers: their own outputs, places, costs, and what comes out of compressed ones."""

import dataclasses
from typing import Any

import pytest
import torch
from hf_models import CONFIGS, hf_backbone, hf_exact, hf_model, pixels, transformers
from small_vits import drawn
from test_wrapped import check

import autotok
from autotok.backbones.hf_vit import HFViT
from autotok.backbones.loading import as_backbone
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig, Reduction
from autotok.counting.counter import count_operators
from autotok.counting.macs import cost, uncompressed
from autotok.errors import IncompatibleMethod, UnsupportedBackbone
from autotok.methods.image_scoring import ImageScoring
from autotok.methods.primitives import select
from autotok.methods.registry import get_method, list_methods, unmet_need
from autotok.testing import example_config
from autotok.testing.reduction_case import stand_in
from autotok.tokens import Needs

HALF = CompressionConfig("tome", (Reduction(0, num_keep=11), Reduction(1, num_keep=6)))
PRUNED = CompressionConfig("random", (Reduction(1, num_keep=5),))


@pytest.mark.parametrize("kind", CONFIGS)
@torch.no_grad()
def test_the_uncompressed_model_answers_as_its_own_in_every_field(kind: str) -> None:
    model = hf_model(kind)
    expected = model(pixel_values=pixels())
    found = autotok.compress(model, CompressionConfig())(pixel_values=pixels())
    assert type(found) is type(expected)
    assert found.keys() == expected.keys()
    for name in expected.keys():
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_formula_equals_the_counter_and_parameters_those_of_the_module(kind: str) -> None:
    backbone = hf_backbone(kind)
    found = count_operators(compress_backbone(backbone, HALF))
    assert found.macs == cost(backbone.facts, HALF).macs
    assert found.uncounted == ()
    total = sum(p.numel() for p in backbone.parameters())
    assert uncompressed(backbone.facts).params == total


@pytest.mark.parametrize("kind", CONFIGS)
def test_after_random_pruning_places_are_the_original_ones(kind: str) -> None:
    backbone = hf_exact(kind)
    with torch.no_grad():
        tokens, _ = backbone.embed(pixels().double(), Needs.GRID)
    chosen = torch.stack([torch.randperm(16)[:7] for _ in range(2)])
    for index in range(3):
        check(backbone, index, select(tokens, chosen))


@pytest.mark.parametrize("method", list_methods())
@pytest.mark.parametrize(
    "kind",
    [
        "DINOv3ViTModel",
        "Dinov2WithRegistersForImageClassification",
        *(
            pytest.param(kind, marks=pytest.mark.slow)
            for kind in CONFIGS
            if kind not in ("DINOv3ViTModel", "Dinov2WithRegistersForImageClassification")
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:Initializing zero-element")  # Cropr's heads, of no classes
@torch.no_grad()
def test_every_method_runs_or_says_what_it_lacks(method: str, kind: str) -> None:
    cls, backbone = get_method(method), hf_backbone(kind)
    config = example_config(cls, backbone.facts)
    headless = method == "cropr" and not backbone.facts.num_classes  # it learns by a classifier
    if headless or unmet_need(cls, backbone.facts) is not None:
        with pytest.raises(IncompatibleMethod):
            compress_backbone(backbone, config)
        return
    model = compress_backbone(backbone, config).eval()
    for reducer in model.reducers.values():
        if isinstance(reducer, ImageScoring):
            reducer.network = stand_in()
    together = model(pixels())
    assert together.isfinite().all()
    assert model(pixel_values=pixels()) is not None


@pytest.mark.parametrize("kind", ["ViTModel", "DeiTModel", "BeitModel"])
@torch.no_grad()
def test_a_model_without_its_pooler_answers_with_the_class_token(kind: str) -> None:
    config, options = CONFIGS[kind]
    made = getattr(transformers, kind)
    model = drawn(made(getattr(transformers, config)(**options), add_pooling_layer=False))
    expected = model(pixel_values=pixels()).last_hidden_state[:, 0]
    torch.testing.assert_close(as_backbone(model)(pixels()), expected)
    assert autotok.macs(model).macs == count_operators(as_backbone(model)).macs
    assert autotok.compress(model, HALF)(pixel_values=pixels()).pooler_output is None


@torch.no_grad()
def test_hidden_states_come_shortened_or_put_back_to_the_length_they_had() -> None:
    model = autotok.compress(hf_model("Dinov2WithRegistersModel"), HALF)
    short = model(pixel_values=pixels())
    full = model(pixel_values=pixels(), full_length=True)
    assert short.last_hidden_state.shape == (2, 5 + 6, 32)
    assert full.last_hidden_state.shape == (2, 5 + 16, 32)
    assert torch.equal(short.pooler_output, full.pooler_output)
    assert torch.equal(full.last_hidden_state[:, :5], short.last_hidden_state[:, :5])
    source = model.forward_tokens(pixels(), trace=True).source
    assert source is not None
    for image in range(2):
        for token, held in enumerate(source[image]):
            own = short.last_hidden_state[image, 5 + token]
            same = full.last_hidden_state[image, 5:][held]
            torch.testing.assert_close(same, own.expand_as(same), atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_what_was_pruned_away_is_zero_at_full_length() -> None:
    model = autotok.compress(hf_model("ViTModel"), PRUNED)
    full = model(pixel_values=pixels(), full_length=True).last_hidden_state[:, 1:]
    assert (full.abs().sum(dim=-1) == 0).sum(dim=1).tolist() == [11, 11]


@torch.no_grad()
def test_dense_features_are_the_hidden_states_put_back() -> None:
    model = autotok.compress(hf_model("Dinov2WithRegistersModel"), PRUNED)
    full = model(pixel_values=pixels(), full_length=True).last_hidden_state[:, 5:]
    dense = autotok.dense(model, fill="zeros")(pixels())
    assert torch.equal(dense.flatten(2).transpose(1, 2), full)


@torch.no_grad()
def test_merged_tokens_count_for_the_patches_they_hold_in_a_pooling_by_attention() -> None:
    """Sixteen patches alike: whatever is merged, the pooled features stay what they are."""
    backbone = hf_backbone("SiglipVisionModel")
    tokens, _ = backbone.embed(pixels())
    x = torch.randn(2, 4, 32)
    whole = tokens.with_x(x.repeat_interleave(4, dim=1))
    merged = dataclasses.replace(tokens, x=x, size=torch.full((2, 4), 4.0), raster=False)
    uneven = dataclasses.replace(
        tokens, x=torch.cat([x, x[:, :1]], dim=1), raster=False,
        size=torch.tensor([[1.0, 4, 4, 4, 3]]).expand(2, -1),
    )  # fmt: skip
    for some in (merged, uneven):
        torch.testing.assert_close(
            backbone.readout(some), backbone.readout(whole), atol=1e-5, rtol=0
        )


def test_classes_are_called_what_the_configuration_calls_them() -> None:
    model = hf_model("ViTForImageClassification")
    assert as_backbone(model).class_names == ()  # type: ignore[attr-defined]
    model.config.id2label = dict(enumerate("abcde"))
    assert as_backbone(model).class_names == tuple("abcde")  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["ViTForImageClassification", "Dinov2Model", "DINOv3ViTModel"])
@torch.no_grad()
def test_images_of_another_size_take_resampled_positions(kind: str) -> None:
    model = hf_model(kind)
    backbone = HFViT(model, image_size=48)
    assert backbone.facts.grid == (6, 6)
    told = {"interpolate_pos_encoding": True} if kind.startswith("ViT") else {}
    expected = backbone._primary(model(pixels(side=48), **told))
    torch.testing.assert_close(backbone(pixels(side=48)), expected, atol=1e-5, rtol=1e-5)
    if backbone.facts.has_position_table:
        _, taps = backbone.embed(pixels(side=48), Needs.EMBEDDING)
        stem: Any = backbone.tower.embeddings.patch_embeddings.projection
        alone = stem(pixels(side=48)).flatten(2).transpose(1, 2)
        torch.testing.assert_close(taps.patch_embedding, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["DINOv3ViTModel", "BeitForImageClassification"])
@torch.no_grad()
def test_it_compiles_as_one_graph(kind: str) -> None:
    model = compress_backbone(hf_backbone(kind), HALF).eval()
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(pixels()), model(pixels()), atol=1e-4, rtol=1e-4)


def test_models_that_are_none_of_these_are_refused_with_the_reason() -> None:
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
             "intermediate_size": 16}  # fmt: skip
    both = transformers.CLIPModel(transformers.CLIPConfig(
        vision_config={**small, "image_size": 16, "patch_size": 8}, text_config=small))  # fmt: skip
    with pytest.raises(UnsupportedBackbone, match=r"two towers; give the images' own") as caught:
        autotok.compress(both, HALF)
    assert "\n" not in str(caught.value)
    headless = hf_model("SiglipVisionModel").config
    headless.vision_use_head = False
    with pytest.raises(UnsupportedBackbone, match="leaves the pooling out"):
        autotok.compress(transformers.SiglipVisionModel(headless), HALF)
    assert isinstance(as_backbone(both.vision_model), HFViT)
