"""timm families of every kind run through the adapter; the others are refused with the reason."""

from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from autotok.backbones.loading import load_backbone
from autotok.backbones.timm_vit import TimmViT, VisionTransformer, timm
from autotok.backbones.tiny import tiny_vit
from autotok.counting.counter import count_macs
from autotok.counting.macs import uncompressed
from autotok.errors import CheckpointError, UnsupportedBackbone

from timm.models.vision_transformer import ResPostBlock  # isort: skip

SMALL: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 48,
    "depth": 2,
    "num_heads": 3,
}
FAMILIES: dict[str, tuple[dict[str, Any], int, bool, str]] = {
    "plain": ({}, 1, True, "cls"),
    "deit3": ({"no_embed_class": True, "init_values": 1e-2}, 1, True, "cls"),
    "registers": ({"no_embed_class": True, "reg_tokens": 4}, 5, True, "cls"),
    "gap": ({"class_token": False, "global_pool": "avg", "qkv_bias": False}, 0, False, "mean"),
    "registers without class": (
        {"class_token": False, "global_pool": "avg", "reg_tokens": 4}, 4, False, "mean",
    ),
    "clip": ({"pre_norm": True}, 1, True, "cls"),
    "siglip": ({"class_token": False, "global_pool": "map"}, 0, False, "map"),
    "beit3": (
        {"global_pool": "avg", "scale_attn_norm": True, "scale_mlp_norm": True}, 1, True, "mean",
    ),
    "any size of images": ({"dynamic_img_size": True}, 1, True, "cls"),
    "norms after branches": ({"block_fn": ResPostBlock, "init_values": 0.5}, 1, True, "cls"),
    "qk norm": ({"qk_norm": True}, 1, True, "cls"),
    "headless": ({"num_classes": 0, "init_values": 1e-2}, 1, True, "cls"),
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_the_uncompressed_adapter_equals_the_model(family: str) -> None:
    options, num_prefix, has_cls, pooling = FAMILIES[family]
    model = VisionTransformer(**SMALL, **{"num_classes": 10, **options}).eval()
    backbone = TimmViT(model)
    facts = backbone.facts
    assert (facts.num_prefix, facts.has_cls, facts.pooling) == (num_prefix, has_cls, pooling)
    assert facts.params == sum(p.numel() for p in model.parameters())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), model(images), atol=1e-5, rtol=1e-5)


def test_the_distilled_model_keeps_two_prefix_tokens_and_both_heads() -> None:
    model = timm.create_model("deit_tiny_distilled_patch16_224", depth=2).eval()
    backbone = TimmViT(model)
    assert backbone.facts.num_prefix == 2
    assert backbone.facts.pooling == "cls+dist"


def test_gated_attention_and_its_cost_are_the_models_own() -> None:
    model = VisionTransformer(**SMALL, num_classes=10).eval()
    for block in model.blocks:
        block.attn.gate = torch.nn.Linear(48, 48)
    backbone = TimmViT(model)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), model(images), atol=1e-5, rtol=1e-5)
    assert count_macs(backbone) == uncompressed(backbone.facts).macs


def test_the_self_test_catches_what_the_checks_miss() -> None:
    model = tiny_vit()
    model.norm.register_forward_hook(lambda module, args, out: out * 1.5)
    model.forward_head = lambda x: x[:, 0, :10] * 2.0  # type: ignore[method-assign]
    original = model.forward

    def skewed(images: torch.Tensor) -> torch.Tensor:
        return original(images) + 1.0

    model.forward = skewed  # type: ignore[method-assign]
    with pytest.raises(UnsupportedBackbone, match="self-test"):
        TimmViT(model)


def test_a_checkpoint_loads_and_positions_are_resampled_to_another_size(tmp_path: Any) -> None:
    source = timm.create_model("vit_tiny_patch16_224", num_classes=7, depth=12).eval()
    path = tmp_path / "weights.safetensors"
    save_file({k: v.contiguous() for k, v in source.state_dict().items()}, path)
    same = load_backbone("vit_tiny_patch16_224", checkpoint=path)
    assert same.facts.num_classes == 7
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(same(images), source(images), atol=1e-4, rtol=1e-4)
    smaller = load_backbone("vit_tiny_patch16_224", checkpoint=path, image_size=96)
    assert smaller.facts.grid == (6, 6)


def test_broken_checkpoints_are_one_sentence_each(tmp_path: Any) -> None:
    text = tmp_path / "notes.pth"
    text.write_text("these are not weights")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00not json at all")
    other = tmp_path / "other.safetensors"
    save_file({"some.weight": torch.zeros(3)}, other)
    for path, words in (
        (tmp_path / "absent.pth", "does not exist"),
        (text, "not a readable weight file"),
        (damaged, "not a readable safetensors file"),
        (other, "does not fit backbone"),
    ):
        with pytest.raises(CheckpointError, match=words) as caught:
            load_backbone("vit_tiny_patch16_224", checkpoint=path)
        assert "\n" not in str(caught.value)
