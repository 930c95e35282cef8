"""Backbones on images of another size: as their libraries resize them, counted at every size."""

from collections.abc import Callable

import pytest
import torch
from hf_models import hf_backbone
from other_vits import other_backbone
from test_lvvit import small
from torch.nn import functional as F

from autotok.backbones.autoformer import AutoFormer, SupernetSpec
from autotok.backbones.base import Backbone, resampled_positions, shrunk
from autotok.backbones.supernet import AutoFormerSupernet, SupernetView
from autotok.backbones.timm_vit import TimmViT
from autotok.backbones.tiny import tiny_backbone, tiny_vit
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig, Reduction
from autotok.counting.counter import count_macs
from autotok.counting.macs import cost
from autotok.errors import ConfigError

SPEC = SupernetSpec(
    embed_dim=32, depth=3, heads=2, mlp_ratio=2.0, embed_choices=(16, 32), depth_choices=(3,),
    heads_choices=(2,), mlp_ratio_choices=(2.0,), image_shape=(3, 32, 32), patch_size=8,
    num_classes=10, head_dim=16, max_offset=3,
)  # fmt: skip
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(5))


def view() -> SupernetView:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SupernetView(AutoFormerSupernet(SPEC), SPEC.smallest()).eval()


FAMILIES: dict[str, Callable[[], Backbone]] = {
    "timm": tiny_backbone,
    "AutoFormer": lambda: view().alone(),
    "a supernet's view": view,
    "LV-ViT": small,
    "EVA-02": lambda: other_backbone("turns and a table"),
    "turns of every head": lambda: other_backbone("turns of every head"),
    "DINOv3": lambda: other_backbone("DINOv3"),
    "transformers' ViT": lambda: hf_backbone("ViTForImageClassification"),
    "transformers' DINOv3": lambda: hf_backbone("DINOv3ViTModel"),
}


FURTHER = {"a supernet's view", "turns of every head", "DINOv3", "transformers' DINOv3"}
"""Of each of which another of the families is a near relative."""


@pytest.mark.parametrize(
    "family",
    [pytest.param(f, marks=pytest.mark.slow) if f in FURTHER else f for f in FAMILIES],
)
def test_the_formula_and_the_counter_agree_at_every_size(family: str) -> None:
    backbone = FAMILIES[family]()
    half = (Reduction(1, keep_ratio=0.5),)
    for side in (8, 16, 24, 32, 40):
        for config in (
            CompressionConfig(image_size=side),
            CompressionConfig("tome", half, image_size=side),
        ):
            model = compress_backbone(backbone, config)
            with torch.no_grad():
                assert model(IMAGES).shape == backbone(IMAGES).shape
            assert count_macs(model) == cost(backbone.facts, config).macs
            assert model.backbone.facts.num_patches == (side // 8) ** 2


@torch.no_grad()
@pytest.mark.parametrize("side", [16, 24, 48])
def test_it_runs_as_timm_runs_the_resized_model(side: int) -> None:
    model = tiny_vit()
    images = F.interpolate(IMAGES, size=(side, side), mode="bilinear", align_corners=True)
    found = TimmViT(model, name="tiny").at_size(side)(IMAGES)
    model.set_input_size((side, side))
    torch.testing.assert_close(found, model(images), atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("word", ["turns and a table", "turns of every head", "DINOv3"])
def test_rotary_positions_are_those_of_the_grid(word: str) -> None:
    backbone = other_backbone(word)
    found = backbone.at_size(24)(IMAGES)
    backbone.model.set_input_size((24, 24))
    torch.testing.assert_close(found, backbone.model(shrunk(IMAGES, 24)), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_positions_are_resampled_as_timm_resamples_them() -> None:
    from timm.layers import resample_abs_pos_embed

    table = torch.randn(1, 2 + 20, 6)
    found = resampled_positions(table, (4, 5), (3, 2))
    torch.testing.assert_close(found, resample_abs_pos_embed(table, [3, 2], [4, 5], 2))


@torch.no_grad()
def test_the_own_size_is_the_backbone_itself_and_weights_are_shared() -> None:
    backbone = tiny_backbone()
    assert backbone.at_size(32) is backbone
    assert backbone.at_size(None) is backbone
    smaller = backbone.at_size(16)
    before = smaller(IMAGES)
    assert smaller.at_size(None)(IMAGES).equal(backbone(IMAGES))
    assert [*smaller.state_dict()] == [*backbone.state_dict()]
    backbone.model.head.bias.add_(1.0)
    torch.testing.assert_close(smaller(IMAGES), before + 1.0)
    assert backbone.facts.image_shape == (3, 32, 32)


def test_images_of_any_size_are_taken() -> None:
    smaller = tiny_backbone().at_size(16)
    with torch.no_grad():
        once = smaller(shrunk(IMAGES, 16))
        assert smaller(IMAGES).equal(once)
        assert smaller(torch.zeros(1, 3, 50, 21)).shape == (1, 10)


def test_a_supernets_view_and_its_subnet_agree_at_another_size() -> None:
    smaller = view().at_size(24)
    cut = smaller.alone()
    assert isinstance(cut, AutoFormer)
    assert cut.facts.grid == (3, 3)
    with torch.no_grad():
        torch.testing.assert_close(cut(IMAGES), smaller(IMAGES))


@torch.no_grad()
def test_the_parts_of_a_stem_have_the_positions_of_the_size() -> None:
    smaller = tiny_backbone().at_size(16)
    stem, images = smaller.stem_parts(), shrunk(IMAGES, 16)
    x = torch.cat([stem.prefix.expand(2, -1, -1), stem.patches(images)], dim=1) + stem.positions
    assert torch.equal(stem.enter(x), smaller.embed(IMAGES)[0].x)


def test_gradients_reach_the_whole_position_table() -> None:
    model = compress_backbone(tiny_backbone(), CompressionConfig(image_size=24)).train()
    model(IMAGES).sum().backward()
    table = model.backbone.weights.get_parameter("pos_embed")
    assert table.grad is not None
    assert table.grad.abs().sum(dim=-1).min() > 0.0


@pytest.mark.parametrize(("side", "near"), [(12, "8 or 16"), (3, "8 "), (33, "32 or 40")])
def test_a_side_between_patches_is_told_with_those_that_can_be(side: int, near: str) -> None:
    with pytest.raises(ConfigError, match=rf"image_size {side} .*multiples of 8 .*as {near}.*32"):
        compress_backbone(tiny_backbone(), CompressionConfig(image_size=side))


@pytest.mark.parametrize("word", ["BEiT", "offsets by tables"])
def test_a_family_of_one_size_says_why(word: str) -> None:
    backbone = other_backbone(word)
    with pytest.raises(ConfigError, match=r"image_size 16 cannot .*biases.*one grid; .*give 32"):
        backbone.at_size(16)
    assert backbone.at_size(32) is backbone
