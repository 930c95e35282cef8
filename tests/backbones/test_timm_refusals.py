"""What timm's adapters refuse, by name, with the reason."""

from typing import Any

import pytest
from small_vits import SMALL

from autotok.backbones.loading import load_backbone
from autotok.backbones.timm_vit import TimmViT, VisionTransformer, timm
from autotok.errors import UnsupportedBackbone


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("swin_tiny_patch4_window7_224", "windows"),
        ("samvit_base_patch16", "windows"),
        ("cait_xxs24_224", "class-attention"),
        ("xcit_nano_12_p16_224", "channels"),
        ("naflexvit_base_patch16_gap", "variable-length"),
        ("levit_128", "convolutional"),
        ("volo_d1_224", "outlook"),
        ("resnet50", "no plain Vision Transformer .*resnet"),
        ("resnet50.a1_in1k", "no plain Vision Transformer .*resnet"),
        ("convnext_tiny", "no plain Vision Transformer"),
        ("vit_small_patch16_18x2_224", "several attentions side by side.*ParallelThingsBlock"),
    ],
)
def test_models_the_engine_cannot_run_are_refused_by_name_with_the_reason(
    name: str, reason: str
) -> None:
    with pytest.raises(UnsupportedBackbone, match=reason) as caught:
        load_backbone(name)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"block_fn": timm.models.vision_transformer.ParallelScalingBlock}, "ParallelScalingBlock"),
        ({"dynamic_img_size": True, "dynamic_img_pad": True}, "dynamic_img_pad"),
        ({"patch_drop_rate": 0.5}, "patch dropout"),
        ({"global_pool": "avg", "pool_include_prefix": True}, "includes prefix"),
    ],
)
def test_variants_of_a_plain_vit_are_refused_naming_the_first_failing_check(
    change: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UnsupportedBackbone, match=reason):
        TimmViT(VisionTransformer(**{**SMALL, **change}))
