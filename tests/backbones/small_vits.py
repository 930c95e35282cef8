"""Small timm ViTs of every layout, all of their weights drawn anew, and names to load them by."""

from typing import Any

import torch
from torch import nn

from autotok.backbones.timm_vit import VisionTransformer, timm

from timm.models.deit import VisionTransformerDistilled  # isort: skip

SMALL: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 64,
    "depth": 2,
    "num_heads": 4,
    "num_classes": 10,
}
PLAIN, DISTILLED = "vit_sample_patch8_32", "deit_sample_distilled_patch8_32"
LAYOUTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "five classes": {"num_classes": 5},
    "headless": {"num_classes": 0},
    "one channel": {"in_chans": 1},
    "DeiT-3": {"no_embed_class": True, "init_values": 1e-2},
    "LayerScale": {"init_values": 1e-2},
    "DINOv2 with registers": {"no_embed_class": True, "reg_tokens": 4, "init_values": 1e-2},
    "registers with positions": {"reg_tokens": 2},
    "query and key norms": {"qk_norm": True},
    "no biases": {"qkv_bias": False, "proj_bias": False},
    "MAE, fine-tuned": {"global_pool": "avg"},
    "no class token": {"class_token": False, "global_pool": "avg", "fc_norm": False},
    "no class token, norm after": {"class_token": False, "global_pool": "avg"},
    "registers, no class token": {"class_token": False, "global_pool": "avg", "reg_tokens": 4},
    "CLIP": {"pre_norm": True},
    "SigLIP": {"class_token": False, "global_pool": "map"},
    "BEiT-3": {"global_pool": "avg", "scale_attn_norm": True, "scale_mlp_norm": True},
    "larger images": {"img_size": 48},
    "larger images, positions of patches": {"img_size": 56, "no_embed_class": True},
    "gated MLP": {
        "mlp_layer": timm.layers.SwiGLU, "act_layer": nn.SiLU, "mlp_ratio": 2.67,
    },
}  # fmt: skip


def _sample(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    return VisionTransformer(**{**SMALL, **_given(kwargs)})


def _distilled(pretrained: bool = False, **kwargs: Any) -> VisionTransformerDistilled:
    return VisionTransformerDistilled(**{**SMALL, **_given(kwargs)})


def _given(kwargs: dict[str, Any]) -> dict[str, Any]:
    for_weights = ("pretrained", "cache_dir")  # what timm hands on for a download
    return {key: value for key, value in kwargs.items() if not key.startswith(for_weights)}


for name, make in ((PLAIN, _sample), (DISTILLED, _distilled)):
    make.__name__ = name
    timm.models.register_model(make)


def drawn(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in evaluation mode with every weight drawn, so that none can be lost unseen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.3 * noise + (parameter.dim() == 1))
    return model.eval()


def layout(word: str) -> nn.Module:
    """A model of one of `LAYOUTS`."""
    return drawn(VisionTransformer(**{**SMALL, **LAYOUTS[word]}))
