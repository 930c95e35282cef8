"""The formula against torch's counter on the meta device, and against fvcore."""

import random
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from torch import Tensor
from torch.nn import functional as F

import autotok.methods  # noqa: F401
from autotok.backbones.autoformer import AutoFormer, SupernetSpec
from autotok.backbones.base import Backbone
from autotok.backbones.loading import as_backbone
from autotok.backbones.tiny import tiny_vit
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig, Reduction, SubnetSpec
from autotok.counting.counter import count_macs, count_operators
from autotok.counting.macs import cost, uncompressed
from autotok.methods.base import Placement, Span, TokenReducer
from autotok.methods.registry import get_method, list_methods, unmet_need

DRAWS = 500


def timm_variant(**changes: object) -> Backbone:
    from autotok.backbones.timm_vit import VisionTransformer

    shape = {"img_size": 40, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 3}
    torch.manual_seed(0)
    return as_backbone(VisionTransformer(**{**shape, "num_classes": 7, **changes}).eval())


def distilled() -> Backbone:
    from autotok.backbones.timm_vit import VisionTransformerDistilled

    torch.manual_seed(0)
    model = VisionTransformerDistilled(
        img_size=40, patch_size=8, embed_dim=24, depth=4, num_heads=3, num_classes=7
    )
    return as_backbone(model.eval())


def autoformer(subnet: SubnetSpec, pooling: str = "mean") -> Backbone:
    spec = SupernetSpec(
        embed_dim=48, depth=5, heads=3, mlp_ratio=4.0, embed_choices=(48,), depth_choices=(5,),
        heads_choices=(3,), mlp_ratio_choices=(4.0,), image_shape=(3, 48, 48), patch_size=8,
        num_classes=10, head_dim=16, max_offset=3, pooling=pooling,
    )  # fmt: skip
    return AutoFormer(spec, subnet).eval()


def other(module: str, kind: str, **changes: object) -> Backbone:
    from importlib import import_module

    shape = {"img_size": 40, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 3}
    torch.manual_seed(0)
    made = getattr(import_module(f"timm.models.{module}"), kind)
    return as_backbone(made(**{**shape, "num_classes": 7, **changes}).eval())


BACKBONES: dict[str, Callable[[], Backbone]] = {
    "tiny": lambda: as_backbone(tiny_vit()),
    "plain": timm_variant,
    "distilled": distilled,
    "mean pooling without class token": lambda: timm_variant(class_token=False, global_pool="avg"),
    "mean pooling": lambda: timm_variant(global_pool="avg"),
    "attention pooling": lambda: timm_variant(class_token=False, global_pool="map"),
    "registers": lambda: timm_variant(reg_tokens=3),
    "headless": lambda: timm_variant(num_classes=0),
    "rotary": lambda: other("eva", "Eva", use_rot_pos_emb=True, swiglu_mlp=True, num_reg_tokens=2),
    "relative biases": lambda: other("beit", "Beit", use_rel_pos_bias=True),
    "biases of offsets": lambda: other("vision_transformer_relpos", "VisionTransformerRelPos"),
    "autoformer": lambda: autoformer(SubnetSpec(48, (3, 2, 3, 2), (4.0, 2.5, 3.0, 2.0))),
    "autoformer, narrow": lambda: autoformer(SubnetSpec(36, (1, 2, 2, 3, 1), (1.5,) * 5), "cls"),
}


@cache
def backbone(name: str) -> Backbone:
    return BACKBONES[name]()


def draw_config(facts_of: Backbone, rng: random.Random) -> CompressionConfig:
    facts = facts_of.facts
    fitting = [m for m in list_methods() if unmet_need(get_method(m), facts) is None]
    method = get_method(rng.choice(fitting))
    layers = [] if method.name == "none" else list(range(method.first_layer, facts.num_blocks))
    options = draw_options(method, rng)
    if method.placement is Placement.BEFORE_BLOCKS:
        layers = [0]
    elif method.single_layer:
        layers = [rng.choice(layers)]
    layers = sorted(rng.sample(layers, rng.randint(min(1, len(layers)), len(layers))))
    entering, reductions = facts.num_patches, []
    for layer in layers:
        low, high = method.feasible(entering, method.resolve_options(options))
        keep = entering if rng.random() < 0.1 else rng.randint(min(low, high), high)
        reductions.append(Reduction(layer, num_keep=keep))
        span = method.lasts(method.resolve_options(options))
        entering = keep if span is Span.REST else entering
    return CompressionConfig(method=method.name, reductions=tuple(reductions), options=options)


def draw_options(method: type[TokenReducer], rng: random.Random) -> dict[str, bool | str]:
    """Booleans and strings only: those change which operators run."""
    return {
        option.name: rng.choice(option.choices or (True, False))
        for option in method.options
        if isinstance(option.default, bool) and rng.random() < 0.5
    }


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize(
    ("first", "last"), [(0, 8), pytest.param(8, DRAWS // len(BACKBONES), marks=pytest.mark.slow)]
)
def test_the_formula_equals_the_counter_on_random_draws(name: str, first: int, last: int) -> None:
    rng = random.Random(f"counting {name}")
    model = backbone(name)
    used = set()
    for config in [draw_config(model, rng) for _ in range(last)][first:]:
        compressed = compress_backbone(model, config)
        found = count_operators(compressed)
        assert found.macs == cost(model.facts, config).macs, config
        assert found.uncounted == (), config
        used.add(config.method)
    assert len(used) >= 4


@pytest.mark.parametrize("name", BACKBONES)
def test_parameters_equal_those_of_the_module(name: str) -> None:
    model = backbone(name)
    assert uncompressed(model.facts).params == sum(p.numel() for p in model.parameters())


def test_counting_leaves_the_model_as_it_was() -> None:
    model = compress_backbone(
        backbone("tiny"), CompressionConfig(method="tome", reductions=(Reduction(1, num_keep=9),))
    ).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert count_macs(model) > 0
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert next(model.parameters()).device.type == "cpu"


def test_what_torch_cannot_count_is_listed() -> None:
    class WithVectorProduct(AutoFormer):
        def readout(self, tokens):  # type: ignore[no-untyped-def]
            logits = super().readout(tokens)
            return logits + (logits.mT @ logits.new_ones(logits.shape[0])).sum()

    like = backbone("autoformer")
    assert isinstance(like, AutoFormer)
    found = count_operators(WithVectorProduct(like.spec, like.subnet).eval())
    assert found.uncounted == ("mv x1",)


@pytest.mark.filterwarnings("ignore")
def test_fvcore_agrees_once_attention_is_unfused(monkeypatch: pytest.MonkeyPatch) -> None:
    def unfused(q: Tensor, k: Tensor, v: Tensor, attn_mask: Any, dropout_p: float) -> Tensor:
        assert attn_mask is None
        assert dropout_p == 0.0
        return (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(-1) @ v

    model = backbone("tiny")
    monkeypatch.setattr(F, "scaled_dot_product_attention", unfused)
    analysis = FlopCountAnalysis(model, torch.zeros(1, 3, 32, 32))
    by_operator = analysis.unsupported_ops_warnings(False).by_operator()
    products = {key: by_operator[key] for key in ("conv", "linear", "matmul")}
    assert sum(products.values()) == uncompressed(model.facts).macs


@pytest.mark.parametrize("name", [n for n in list_methods() if n != "none"])
def test_the_formula_equals_the_counter_where_nothing_goes(name: str) -> None:
    model, method = backbone("tiny"), get_method(name)
    first = 0 if method.placement is Placement.BEFORE_BLOCKS else method.first_layer
    layers = (first,) if method.single_layer else (first, first + 1)
    every = tuple(Reduction(layer, keep_ratio=1.0) for layer in layers)
    config = CompressionConfig(name, every)
    assert count_macs(compress_backbone(model, config)) == cost(model.facts, config).macs
