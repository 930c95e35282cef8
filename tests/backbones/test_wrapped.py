"""Whatever goes, blocks see the places of the original grid: held to the full grid's own map."""

import copy
import dataclasses
from functools import cache
from pathlib import Path
from typing import cast

import pytest
import torch
from hf_models import hf_model
from hypothesis import given, settings
from hypothesis import strategies as st
from other_vits import OTHERS, images, other, other_backbone
from small_vits import drawn
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from autotok.backbones.autoformer import AutoFormer, SupernetSpec
from autotok.backbones.base import Backbone
from autotok.backbones.loading import as_backbone
from autotok.backbones.wrapped import WrappedViT
from autotok.compression.compress import compress_backbone
from autotok.compression.tap_request import TapRequest
from autotok.config import CompressionConfig, Reduction, SubnetSpec
from autotok.counting.counter import count_operators
from autotok.counting.macs import cost, uncompressed
from autotok.export.exported import export_model
from autotok.methods.primitives import select
from autotok.tokens import Needs, Tokens


@cache
def backbone(word: str) -> WrappedViT:
    return other_backbone(word)


@cache
def exact(word: str) -> WrappedViT:
    return other_backbone(word).double()


@cache
def autoformer() -> Backbone:
    spec = SupernetSpec(
        embed_dim=24, depth=4, heads=3, mlp_ratio=2.0, embed_choices=(24,),
        depth_choices=(4,), heads_choices=(2, 3), mlp_ratio_choices=(1.0, 2.0),
        image_shape=(3, 32, 32), patch_size=8, num_classes=5, head_dim=8, max_offset=3,
    )  # fmt: skip
    chosen = SubnetSpec(24, (2, 3, 2, 3), (2.0, 1.0, 1.0, 2.0))
    return drawn(AutoFormer(spec, chosen)).double()  # type: ignore[return-value]


@torch.no_grad()
def of_the_full_grid(model: Backbone, index: int, tokens: Tokens) -> Tensor:
    """A block's map (B, H, N, N) of tokens, read off that of a full grid in which each stands at
    the place it came from: nothing is looked up by the code that is tested."""
    assert tokens.coords is not None
    batch, prefix, (rows, columns) = tokens.x.shape[0], tokens.num_prefix, tokens.grid
    places = tokens.coords[..., 0] * columns + tokens.coords[..., 1] + prefix
    assert all(len(set(row.tolist())) == tokens.num_patches for row in places)
    own = torch.cat([torch.arange(prefix).expand(batch, -1), places], dim=1)
    full = tokens.x.mean(dim=1, keepdim=True).expand(-1, prefix + rows * columns, -1)
    full = full.scatter(1, own.unsqueeze(-1).expand_as(tokens.x), tokens.x)
    _, taps = model.attend(index, Tokens(full, prefix, tokens.grid), Needs.ATTENTION)
    map_ = torch.stack([m[:, at][:, :, at] for m, at in zip(taps.attention, own, strict=True)])
    return map_ / map_.sum(dim=-1, keepdim=True)


def check(model: Backbone, index: int, tokens: Tokens) -> None:
    with torch.no_grad():
        _, taps = model.attend(index, tokens, Needs.ATTENTION)
    expected = of_the_full_grid(model, index, tokens)
    torch.testing.assert_close(taps.attention, expected, atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("word", OTHERS)
@settings(max_examples=5)
@given(seed=st.integers(0, 2**31), keep=st.integers(1, 16), index=st.integers(0, 2))
def test_after_random_pruning_in_any_order_places_are_the_original_ones(
    word: str, seed: int, keep: int, index: int
) -> None:
    torch.manual_seed(seed)
    model = exact(word)
    with torch.no_grad():
        tokens, _ = model.embed(images().double(), Needs.GRID)
    chosen = torch.stack([torch.randperm(16)[:keep] for _ in range(2)])
    check(model, index, select(tokens, chosen))


@settings(max_examples=10)
@given(seed=st.integers(0, 2**31), keep=st.integers(1, 16), index=st.integers(0, 3))
def test_so_it_is_for_autoformer(seed: int, keep: int, index: int) -> None:
    torch.manual_seed(seed)
    model = autoformer()
    with torch.no_grad():
        tokens, _ = model.embed(images().double())
    chosen = torch.stack([torch.randperm(16)[:keep] for _ in range(2)])
    check(model, index, select(tokens, chosen))


def test_naive_places_can_be_asked_for_and_give_something_else() -> None:
    naive = CompressionConfig("tome", (Reduction(0, num_keep=11),), positions="naive")
    for word in ("DINOv3", "turns of every head", "BEiT"):
        with torch.no_grad():
            found = compress_backbone(backbone(word), naive)(images())
            carried = compress_backbone(
                backbone(word), dataclasses.replace(naive, positions="carried")
            )
            assert found.isfinite().all()
            assert not torch.allclose(found, carried(images()), rtol=1e-3)


@pytest.mark.parametrize("method", ["tome", "pitome", "evit", "dpcknn"])
@pytest.mark.parametrize("word", OTHERS)
def test_after_merging_places_are_those_of_the_representatives(word: str, method: str) -> None:
    model = exact(word)
    if method == "evit" and not model.facts.has_cls:
        pytest.skip("scores by the class token")
    config = CompressionConfig(method, (Reduction(0, num_keep=11), Reduction(1, num_keep=7)))
    compressed = compress_backbone(model, config)
    watch = TapRequest(after=frozenset({0, 1}))
    with torch.no_grad():
        compressed.forward_tokens(images().double(), watch=watch)
    for layer, tokens in watch.tokens.items():
        if tokens.coords is None:
            assert not model.facts.carries_positions
            continue
        check(model, layer + 1, dataclasses.replace(tokens, size=None, source=None))


@pytest.mark.parametrize(
    "word", ["DINOv3", "Perception Encoder", "turns of every head", "BEiT", "offsets by tables"]
)
@torch.no_grad()
def test_rows_and_columns_are_told_apart_where_the_grid_is_no_square(word: str) -> None:
    model = other(word, img_size=(32, 48))
    adapter = as_backbone(model).double()
    photos = torch.randn(2, 3, 32, 48, dtype=torch.float64)
    torch.testing.assert_close(adapter(photos), model.double()(photos), atol=1e-6, rtol=1e-6)
    tokens, _ = adapter.embed(photos, Needs.GRID)
    chosen = torch.stack([torch.randperm(24)[:9] for _ in range(2)])
    check(adapter, 1, select(tokens, chosen))


@pytest.mark.parametrize("word", OTHERS)
def test_the_uncompressed_adapter_gives_the_models_own_outputs(word: str) -> None:
    model = other(word)
    with torch.no_grad():
        expected, found = model(images()), backbone(word)(images())
    scale = expected.abs().max()
    torch.testing.assert_close(found / scale, expected / scale, atol=1e-5, rtol=0)


@pytest.mark.parametrize("word", OTHERS)
def test_the_formula_equals_the_counter_and_parameters_those_of_the_module(word: str) -> None:
    model = backbone(word)
    config = CompressionConfig("tome", (Reduction(0, num_keep=12), Reduction(2, num_keep=6)))
    found = count_operators(compress_backbone(model, config))
    assert found.macs == cost(model.facts, config).macs
    assert found.uncounted == ()
    assert uncompressed(model.facts).params == sum(p.numel() for p in model.parameters())


def test_keys_are_what_attention_compares_wherever_they_are_taken() -> None:
    model = backbone("DINOv3")
    needs = Needs.KEYS | Needs.QUERIES
    with torch.no_grad():
        tokens, _ = model.embed(images(), Needs.GRID)
        few = select(tokens, torch.tensor([[3, 9, 14], [0, 1, 2]]))
        _, taps = model.attend(1, few, needs | Needs.ATTENTION)
        before = model.scout(1, few, needs)
    torch.testing.assert_close(before.keys, taps.keys)
    logits = taps.queries @ taps.keys.mT * taps.keys.shape[-1] ** -0.5
    torch.testing.assert_close(logits.softmax(dim=-1), taps.attention, atol=1e-6, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("word", ["DINOv3", "turns of every head", "BEiT", "offsets by a network"])
@torch.no_grad()
def test_it_compiles_as_one_graph(word: str) -> None:
    config = CompressionConfig("tome", (Reduction(0, num_keep=12), Reduction(2, num_keep=6)))
    model = compress_backbone(backbone(word), config).eval()
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images()), model(images()), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("word", "method"),
    [
        ("DINOv3", "tome"), ("DINOv3", "topk"), ("DINOv3", "dpcknn"), ("BEiT", "tome"),
        ("turns of every head", "tome"), ("offsets by a network", "random"),
    ],
)  # fmt: skip
def test_onnx_files_give_what_torch_gives(word: str, method: str, tmp_path: Path) -> None:
    config = CompressionConfig(method, (Reduction(0, num_keep=12), Reduction(2, num_keep=6)))
    model = compress_backbone(backbone(word), config)
    found = export_model(model, tmp_path / "model.onnx", images())
    assert found.ok
    assert found.max_rel_diff < 1e-5


def test_training_learns_turns_and_biases() -> None:
    for word, name in (
        ("turns of every head", "rope.freqs"),
        ("BEiT", "blocks.2.attn.relative_position_bias_table"),
        ("offsets by a network", "blocks.2.attn.rel_pos.mlp.fc1.weight"),
    ):
        model = other_backbone(word)
        config = CompressionConfig("tome", (Reduction(0, num_keep=12),))
        compress_backbone(model, config)(images()).sum().backward()
        gradient = model.weights.get_parameter(name).grad
        assert gradient is not None
        assert float(gradient.abs().max()) > 0


CLASSIFIERS = ("ViT", "CLIP", "Dinov2", "Siglip")


def with_dropout(kind: str) -> nn.Module:
    """A model in training whose attention drops half of its weights."""
    if kind == "timm":
        return VisionTransformer(
            img_size=32, patch_size=16, embed_dim=24, depth=2, num_heads=2, attn_drop_rate=0.5
        )
    model = copy.deepcopy(hf_model(kind))
    for part in model.modules():
        for name in {"attention_dropout", "dropout"} & vars(part).keys():
            if isinstance(getattr(part, name), float):
                setattr(part, name, 0.5)
    return cast(nn.Module, model)


@pytest.mark.parametrize("kind", ["timm", *(f"{k}ForImageClassification" for k in CLASSIFIERS)])
def test_attention_drops_weights_in_training_as_the_library_s_own(kind: str) -> None:
    model = with_dropout(kind).train()
    backbone = as_backbone(model)
    images = torch.randn(2, *backbone.facts.image_shape)
    torch.manual_seed(0)
    own = model(images) if kind == "timm" else model(pixel_values=images).logits
    compressed = compress_backbone(backbone, CompressionConfig())
    torch.manual_seed(0)
    torch.testing.assert_close(compressed(images), own)
    assert not torch.equal(compressed(images), own)
    backbone.eval()
    assert torch.equal(compressed(images), compressed(images))
