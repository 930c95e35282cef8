"""The contract of a method inside a whole compressed model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from autotok.backbones.autoformer import AutoFormer, SupernetSpec
from autotok.backbones.base import Backbone
from autotok.backbones.timm_vit import TimmViT, VisionTransformer
from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone
from autotok.compression.model import CompressedViT
from autotok.compression.schedule import realise
from autotok.config import CompressionConfig, Reduction
from autotok.errors import ConfigError, IncompatibleMethod
from autotok.export.formats import without_stack_traces
from autotok.facts import BackboneFacts
from autotok.methods.base import Count, Kind, Placement, TokenReducer
from autotok.methods.image_scoring import ImageScoring
from autotok.methods.registry import unmet_need

from .reduction_case import require, stand_in

Method = type[TokenReducer]


@cache
def default_backbones() -> tuple[Backbone, ...]:
    """A plain tiny ViT, one without a class token, one with registers, and a tiny AutoFormer."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        pooled = VisionTransformer(
            img_size=32, patch_size=8, embed_dim=48, depth=4, num_heads=3, num_classes=10,
            class_token=False, global_pool="avg",
        ).eval()  # fmt: skip
        registers = VisionTransformer(
            img_size=32, patch_size=8, embed_dim=48, depth=4, num_heads=3, num_classes=10,
            reg_tokens=4,
        ).eval()  # fmt: skip
        spec = SupernetSpec(
            embed_dim=48, depth=4, heads=3, mlp_ratio=2.0, embed_choices=(48,),
            depth_choices=(4,), heads_choices=(3,), mlp_ratio_choices=(2.0,),
            image_shape=(3, 32, 32), patch_size=8, num_classes=10, head_dim=16, max_offset=3,
        )  # fmt: skip
        autoformer = AutoFormer(spec, spec.largest(), name="tiny_autoformer").eval()
    return (
        tiny_backbone(),
        TimmViT(pooled, name="tiny_pooled"),
        TimmViT(registers, name="tiny_registers"),
        autoformer,
    )


def example_config(method: Method, facts: BackboneFacts) -> CompressionConfig:
    """Two reductions (or one, if the method reduces once), halfway to the fewest it can keep."""
    if method.kind is Kind.NONE:
        return CompressionConfig(method.name)
    places = [1, facts.num_blocks - 2]
    if method.placement is Placement.BEFORE_BLOCKS:
        places = [0]
    elif method.single_layer:
        places = [1]
    reductions, entering = [], facts.num_patches
    for layer in places:
        if method.count is Count.ADAPTIVE:
            reductions.append(Reduction(layer))
            continue
        low, high = method.feasible(entering, method.resolve_options({}))
        entering = (low + high) // 2
        reductions.append(Reduction(layer, num_keep=entering))
    return CompressionConfig(method.name, tuple(reductions))


def check_compatibility(method: Method, backbone: Backbone) -> None:
    """Where the backbone lacks something, an error names it; elsewhere it compresses."""
    need = unmet_need(method, backbone.facts)
    try:
        _compressed(backbone, example_config(method, backbone.facts))
    except IncompatibleMethod as error:
        require(need is not None and need in str(error), method, f"does not name its need: {error}")
    else:
        require(need is None, method, f"runs on '{backbone.facts.name}', which lacks {need}")


def check_whole_model(method: Method, backbone: Backbone) -> None:
    """Logits are finite, of the right shape, and the tokens are as many as the schedule says."""
    if unmet_need(method, backbone.facts):
        return
    model = _compressed(backbone, example_config(method, backbone.facts)).eval()
    images = _images(backbone.facts)
    with torch.no_grad():
        logits = model(images)
        tokens = model.forward_tokens(images, trace=True)
    require(bool(logits.isfinite().all()), method, "gives logits that are not finite")
    require(logits.shape == backbone(images).shape, method, "changes the shape of the logits")
    if method.count is Count.STATIC:
        require(
            tokens.num_patches == model.schedule.readout,
            method,
            f"ends with {tokens.num_patches} tokens, scheduled {model.schedule.readout}",
        )


def check_keeping_all_is_the_identity(method: Method, backbone: Backbone) -> None:
    """Keep ratio 1 gives the uncompressed model's logits (pruning and merging)."""
    facts = backbone.facts
    if unmet_need(method, facts) or method.kind is Kind.POOL or method.count is Count.ADAPTIVE:
        return
    places = [r.layer for r in example_config(method, facts).reductions]
    config = CompressionConfig(method.name, tuple(Reduction(p, keep_ratio=1.0) for p in places))
    model = _compressed(backbone, config).eval()
    images = _images(facts)
    with torch.no_grad():
        error = float((model(images) - backbone(images)).abs().max())
    require(error < 1e-5, method, f"is no identity at keep ratio 1: logits differ by {error:.1e}")


def check_images_are_independent(method: Method, backbone: Backbone) -> None:
    """f(batch)[i] equals f(batch[i : i + 1])."""
    if unmet_need(method, backbone.facts):
        return
    double = copy.deepcopy(backbone).double().eval()  # ties in float32 could flip a match
    model = _compressed(double, example_config(method, backbone.facts)).double().eval()
    images = _images(backbone.facts).double()
    with torch.no_grad():
        together = model(images)
        alone = torch.cat([model(images[i : i + 1]) for i in range(len(images))])
    error = float((together - alone).abs().max())
    require(error < 1e-6, method, f"mixes images of a batch: logits differ by {error:.1e}")


def check_out_of_reach_is_refused(method: Method, backbone: Backbone) -> None:
    """A count the method cannot reach is an error that names the feasible range."""
    facts = backbone.facts
    if unmet_need(method, facts) or method.count is Count.ADAPTIVE:
        return
    low, high = method.feasible(facts.num_patches, method.resolve_options({}))
    layer = 0 if method.placement is Placement.BEFORE_BLOCKS else 1
    try:
        realise(CompressionConfig(method.name, (Reduction(layer, num_keep=low - 1),)), facts)
    except ConfigError as error:
        named = f"{low} to {high}" in str(error)
        require(named, method, f"refuses a count without naming the range {low} to {high}: {error}")
    else:
        require(False, method, f"accepts {low - 1} tokens, though it declares {low} to {high}")


def check_export(method: Method, backbone: Backbone) -> None:
    """torch.export keeps the logits, unless the method declares that it cannot be exported."""
    if unmet_need(method, backbone.facts) or not method.exportable:
        return
    model = _compressed(backbone, example_config(method, backbone.facts)).eval()
    images = _images(backbone.facts)
    with torch.no_grad(), without_stack_traces():
        program = torch.export.export(model, (images,))
        other = images.flip(0)
        error = float((program.module()(other) - model(other)).abs().max())
    require(error < 1e-5, method, f"exports a program whose logits differ by {error:.1e}")


def _compressed(backbone: Backbone, config: CompressionConfig) -> CompressedViT:
    """The model, with a stand-in for an auxiliary network."""
    model = compress_backbone(backbone, config)
    for reducer in model.reducers.children():
        if isinstance(reducer, ImageScoring):
            reducer.network = stand_in()
    return model


def _images(facts: BackboneFacts) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, *facts.image_shape, generator=generator)


MODEL_CHECKS: tuple[Callable[[Method, Backbone], None], ...] = (
    check_compatibility,
    check_whole_model,
    check_keeping_all_is_the_identity,
    check_images_are_independent,
    check_out_of_reach_is_refused,
    check_export,
)
"""Checks that need a method and a backbone."""
