"""SuperViT: Top-K on a backbone with a position table for every image size."""

import math

import pytest
import torch

from autotok.backbones.size_tables import add_size_tables
from autotok.backbones.timm_vit import TimmViT
from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone
from autotok.compression.schedule import realise
from autotok.config import CompressionConfig, Reduction
from autotok.counting.counter import count_macs
from autotok.counting.macs import cost
from autotok.methods.author_units import from_stage_ratios
from autotok.searching.space.space_file import load_space

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def sized() -> TimmViT:
    backbone = tiny_backbone()
    add_size_tables(backbone, (16, 24))
    return backbone


def at_rate(rate: float, side: int | None) -> CompressionConfig:
    patches = tiny_backbone().facts.at_size(side).num_patches
    reductions = from_stage_ratios({1: rate, 2: rate}, patches, num_counted_prefix=1)
    return CompressionConfig("supervit", reductions, image_size=side)


@torch.no_grad()
def test_the_own_size_with_nothing_dropped_is_the_plain_model() -> None:
    backbone = sized()
    for side in (None, 32):
        model = compress_backbone(backbone, at_rate(1.0, side))
        assert torch.equal(model(IMAGES), tiny_backbone()(IMAGES))


@pytest.mark.parametrize("side", [16, 24, 32])
@pytest.mark.parametrize("rate", [0.5, 0.7, 1.0])
def test_counts_are_the_authors_and_costs_are_exact_at_every_size(side: int, rate: float) -> None:
    backbone, config = sized(), at_rate(rate, side)
    wanted, tokens = [], 1 + (side // 8) ** 2
    for _ in range(2):  # c = min(ceil(rate n), n - 1), and n counts the class token
        kept = min(math.ceil(rate * tokens - 1e-9), tokens - 1)
        tokens = 1 + kept
        wanted.append(kept)
    kept_at = realise(config, backbone.facts).by_layer
    assert [kept_at.get(1, (side // 8) ** 2), kept_at.get(2, wanted[0])] == wanted
    model = compress_backbone(backbone, config)
    assert count_macs(model) == cost(backbone.facts, config).macs


@torch.no_grad()
def test_with_the_same_counts_it_is_topk() -> None:
    reductions = (Reduction(1, num_keep=9), Reduction(2, num_keep=4))
    made = [
        compress_backbone(tiny_backbone(), CompressionConfig(name, reductions))(IMAGES)
        for name in ("supervit", "topk")
    ]
    assert torch.equal(*made)


def test_a_keep_ratio_is_one_of_the_smaller_grids_patches_rounded_up() -> None:
    config = CompressionConfig("supervit", (Reduction(1, keep_ratio=0.5),), image_size=24)
    assert realise(config, tiny_backbone().facts).kept == (5,)


def test_searches_that_are_not_told_leave_it_to_topk() -> None:
    methods = load_space("default").candidates(tiny_backbone().facts)
    assert "topk" in methods
    assert "supervit" not in methods
