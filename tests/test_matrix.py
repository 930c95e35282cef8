"""Every method on every kind of backbone: it runs and keeps images apart, or says what it lacks."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch

from autotok.backbones.autoformer import AutoFormer, SupernetSpec
from autotok.backbones.base import Backbone
from autotok.backbones.loading import as_backbone
from autotok.backbones.lvvit import LVViT, LVViTSpec
from autotok.backbones.timm_vit import TimmViT, VisionTransformer, VisionTransformerDistilled
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig, Reduction, SubnetSpec
from autotok.errors import IncompatibleMethod
from autotok.methods import get_method, list_methods, unmet_need
from autotok.methods.image_scoring import ImageScoring
from autotok.testing import example_config
from autotok.testing.reduction_case import stand_in

from timm.models.beit import Beit  # isort: skip
from timm.models.eva import Eva  # isort: skip

SHAPES: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 24,
    "depth": 4,
    "num_heads": 2,
    "num_classes": 5,
}


def plain(**options: Any) -> Backbone:
    return TimmViT(VisionTransformer(**SHAPES, **options).eval())


def distilled() -> Backbone:
    return TimmViT(VisionTransformerDistilled(**SHAPES).eval())


def subnet() -> Backbone:
    """A cut whose blocks differ in heads and hidden size."""
    spec = SupernetSpec(
        embed_dim=24, depth=4, heads=3, mlp_ratio=2.0, embed_choices=(24,),
        depth_choices=(4,), heads_choices=(2, 3), mlp_ratio_choices=(1.0, 2.0),
        image_shape=(3, 32, 32), patch_size=8, num_classes=5, head_dim=8, max_offset=3,
    )  # fmt: skip
    chosen = SubnetSpec(24, (2, 3, 2, 3), (2.0, 1.0, 1.0, 2.0))
    return AutoFormer(spec, chosen, name="autoformer subnet").eval()


def lvvit() -> Backbone:
    shape = (3, 32, 32)
    spec = LVViTSpec(24, 4, 2, 48, image_shape=shape, patch_size=8, num_classes=5)
    return LVViT(spec, name="lvvit tiny").eval()


def rotary(**options: Any) -> Backbone:
    changes = {"use_rot_pos_emb": True, "num_heads": 3, "use_abs_pos_emb": False, **options}
    return as_backbone(Eva(**{**SHAPES, **changes}).eval())


def beit() -> Backbone:
    return as_backbone(Beit(**SHAPES, use_rel_pos_bias=True, init_values=0.5).eval())


FAMILIES: dict[str, Callable[[], Backbone]] = {
    "plain": plain,
    "distilled": distilled,
    "registers": lambda: plain(reg_tokens=4, no_embed_class=True),
    "average pooling": lambda: plain(class_token=False, global_pool="avg"),
    "dinov2": lambda: plain(init_values=0.5),
    "map pooling": lambda: plain(class_token=False, global_pool="map"),
    "autoformer": subnet,
    "lvvit": lvvit,
    "eva": lambda: rotary(qkv_fused=False, swiglu_mlp=True, scale_mlp=True, use_abs_pos_emb=True),
    "dinov3": lambda: rotary(rope_type="dinov3", num_reg_tokens=4, global_pool="token"),
    "beit": beit,
}


@cache
def family(name: str) -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = FAMILIES[name]()
        for parameter in backbone.parameters():  # nothing may hide behind zeros
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    return backbone.double().eval()  # ties in float32 could flip a choice


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("method", list_methods())
@torch.no_grad()
def test_a_method_runs_on_a_backbone_or_says_what_it_lacks(method: str, name: str) -> None:
    cls, backbone = get_method(method), family(name)
    need = unmet_need(cls, backbone.facts)
    config = example_config(cls, backbone.facts)
    if need is not None:
        with pytest.raises(IncompatibleMethod) as caught:
            compress_backbone(backbone, config)
        sentence = str(caught.value)
        assert f"needs {need}" in sentence
        assert "\n" not in sentence
        assert sentence.count(". ") == 0
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = compress_backbone(backbone, config)
        for reducer in model.reducers.values():
            if isinstance(reducer, ImageScoring):
                reducer.network = stand_in()
        model = model.double().eval()
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2)).double()
    together = model(images)
    assert together.shape == (3, 5)
    assert together.isfinite().all()
    alone = torch.cat([model(images[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)
    tokens = model.forward_tokens(images, trace=True)
    assert tokens.num_prefix == backbone.facts.num_prefix
    # a package of what was dropped may stand beside the others
    assert tokens.num_patches <= backbone.facts.num_patches + 1


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_the_kind_it_is_here_for(name: str) -> None:
    facts = family(name).facts
    expected = {
        "plain": (1, True, "cls"),
        "distilled": (2, True, "cls+dist"),
        "registers": (5, True, "cls"),
        "average pooling": (0, False, "mean"),
        "dinov2": (1, True, "cls"),
        "map pooling": (0, False, "map"),
        "autoformer": (1, True, "mean"),
        "lvvit": (1, True, "cls+max_aux"),
        "eva": (1, True, "mean"),
        "dinov3": (5, True, "cls"),
        "beit": (1, True, "mean"),
    }
    assert (facts.num_prefix, facts.has_cls, facts.pooling) == expected[name]


def test_every_method_fits_some_family() -> None:
    """One that fits nothing would pass the test above by refusing."""
    for method in list_methods():
        fits = [n for n in FAMILIES if unmet_need(get_method(method), family(n).facts) is None]
        assert fits, f"method '{method}' fits no family"


@pytest.mark.parametrize("name", ["plain", "average pooling", "autoformer", "lvvit"])
@pytest.mark.parametrize(
    ("method", "threshold"),
    [("asvit", 1000.0), ("ltmp", 1.0), ("spvit", 1e4), ("tofe-instance", 1e4)],
)
@pytest.mark.parametrize("training", [False, True])
def test_a_threshold_that_nothing_passes_still_gives_an_answer(
    method: str, threshold: float, name: str, training: bool
) -> None:
    backbone = family(name)
    if unmet_need(get_method(method), backbone.facts) is not None:
        pytest.skip(f"{method} does not fit {name}")
    reductions = (Reduction(1, num_keep=4), Reduction(2, num_keep=2))
    config = CompressionConfig(method, reductions, {"threshold": threshold})
    model = compress_backbone(backbone, config).double().train(training)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.enable_grad():
        logits = model(images)
        assert logits.isfinite().all()
        if training:
            logits.sum().backward()
    parameters = [p for p in model.parameters() if p.grad is not None]
    assert all(p.grad.isfinite().all() for p in parameters if p.grad is not None)
    for parameter in parameters:
        parameter.grad = None
    backbone.eval()
