"""Pruned ViTs: cut out equals masked, counted exactly, saved and read again, refused by name."""

import dataclasses
import pickle
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from autotok.backbones.loading import as_backbone, load_backbone, save_backbone
from autotok.backbones.base import Backbone
from autotok.backbones.pruning import check_subnet, filled, holds_its_origin, pruned, pruned_facts
from autotok.backbones.timm_vit import VisionTransformer, timm, timm_facts
from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig, Reduction
from autotok.counting.counter import count_macs
from autotok.counting.macs import cost
from autotok.errors import ConfigError, UnsupportedBackbone
from autotok.pruned_spec import PrunedSpec, packed, unpacked

SMALL = {"img_size": 32, "embed_dim": 48, "depth": 4, "num_heads": 3, "num_classes": 10}
FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "deit": lambda: timm.create_model("deit_tiny_patch16_224", patch_size=8, **SMALL),
    "distilled": lambda: timm.create_model("deit_tiny_distilled_patch16_224", patch_size=8, **SMALL),
    "dinov2 with registers": lambda: timm.create_model(
        "vit_small_patch14_reg4_dinov2", patch_size=8, init_values=0.3, **SMALL
    ),
    "gated MLP": lambda: timm.create_model("vit_giant_patch14_dinov2", patch_size=8, **SMALL),
    "norms of queries and keys": lambda: timm.create_model(
        "vit_tiny_patch16_224", patch_size=8, qk_norm=True, qkv_bias=False, **SMALL
    ),
    "norms after branches": lambda: VisionTransformer(
        patch_size=8, block_fn=timm.models.vision_transformer.ResPostBlock, **SMALL
    ),
    "eva, rotary": lambda: timm.create_model("vit_small_patch16_dinov3", patch_size=8, **SMALL),
}


def made(family: str) -> Backbone:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = FAMILIES[family]().eval()
        for parameter in model.parameters():  # no bias may be 0, no scale 1
            parameter.data += 0.1 * torch.randn_like(parameter)
    return as_backbone(model)


def spec_of(backbone: Backbone) -> PrunedSpec:
    """Blocks 0, 1 and 3; in block 1 one head alone, in the others the first and the last."""
    hidden = backbone.facts.blocks[0].hidden
    third, sixth = (packed(list(range(1, hidden, step)), hidden) for step in (3, 6))
    return PrunedSpec((0, 1, 3), ((0, 2), (1,), (0, 2)), (third, sixth, third))


def masked(backbone: Backbone, spec: PrunedSpec) -> Backbone:
    """The same in other words: what is pruned is multiplied by 0 where it would be heard."""
    twin = deepcopy(backbone)
    for index, block in enumerate(twin.model.blocks):  # type: ignore[union-attr]
        if index not in spec.blocks:
            block.attn.proj = block.mlp.fc2 = nn.Identity()
            block.forward = lambda x, *args, **kwargs: x
            continue
        at, facts = spec.blocks.index(index), backbone.facts.blocks[index]
        for head in set(range(facts.heads)) - set(spec.heads[at]):
            block.attn.proj.weight.data[:, head * facts.head_dim : (head + 1) * facts.head_dim] = 0
        for unit in set(range(facts.hidden)) - set(unpacked(spec.units[at])):
            block.mlp.fc2.weight.data[:, unit] = 0
    return twin


def images(backbone: Backbone, number: int = 2) -> torch.Tensor:
    return torch.randn(number, *backbone.facts.image_shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_what_is_cut_out_equals_what_is_masked(family: str) -> None:
    backbone = made(family)
    spec = spec_of(backbone)
    cut, x = pruned(backbone, spec), images(backbone)
    expected = masked(backbone, spec).model(x)  # type: ignore[operator]
    assert (cut(x) - expected).abs().max() < 1e-5 * max(1.0, expected.abs().max())
    assert (backbone(x) - expected).abs().max() > 1e-2


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_cut_out_is_counted_exactly(family: str) -> None:
    backbone = made(family)
    spec = spec_of(backbone)
    cut = pruned(backbone, spec)
    assert cut.facts == pruned_facts(backbone, spec)
    told = timm_facts(
        cut.weights, cut.facts.name, family=cut.facts.family,
        carries_positions=cut.facts.carries_positions,
    )  # fmt: skip
    assert told == cut.facts
    config = CompressionConfig("evit", (Reduction(1, num_keep=7),), subnet=spec)
    assert cost(cut.facts, config).macs == count_macs(compress_backbone(backbone, config))
    assert cost(cut.facts, config).params == sum(p.numel() for p in cut.parameters())
    with FlopCounterMode(display=False) as counter:
        cut(images(backbone, 1))
    assert counter.get_total_flops() > 0
