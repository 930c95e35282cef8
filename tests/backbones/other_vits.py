"""Small ViTs of timm's that are not plain, by what is special about each, all weights drawn."""

from typing import Any

import torch
from small_vits import drawn

from autotok.backbones.loading import as_backbone
from autotok.backbones.wrapped import WrappedViT

from timm.models.beit import Beit  # isort: skip
from timm.models.eva import Eva  # isort: skip
from timm.models.vision_transformer_relpos import (  # isort: skip
    ResPostRelPosBlock,
    VisionTransformerRelPos,
)

SHAPE: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 3,
    "num_heads": 4,
    "num_classes": 5,
}
ROTARY: dict[str, Any] = {"use_rot_pos_emb": True}
DINOV3 = ROTARY | {
    "use_abs_pos_emb": False, "num_reg_tokens": 4, "rope_type": "dinov3", "rope_temperature": 100,
    "rope_rotate_half": True, "init_values": 0.5, "use_fc_norm": False, "qkv_bias": False,
}  # fmt: skip
EVAS: dict[str, dict[str, Any]] = {
    "EVA": {},
    "EVA, class token": {"global_pool": "token"},
    "EVA-02": ROTARY | {
        "qkv_fused": False, "swiglu_mlp": True, "scale_mlp": True, "mlp_ratio": 8 / 3,
        "ref_feat_shape": (2, 2),
    },
    "EVA-02 CLIP": ROTARY | {
        "qkv_fused": False, "swiglu_mlp": True, "scale_mlp": True, "scale_attn_inner": True,
        "global_pool": "token",
    },
    "EVA-02 enormous": {"use_post_norm": True, "global_pool": "token"},
    "DINOv3": DINOV3,
    "DINOv3, gated": DINOV3 | {"swiglu_mlp": True, "swiglu_align_to": 8},
    "DINOv3, biases": DINOV3 | {"qkv_bias": True, "num_classes": 0},
    "Perception Encoder": ROTARY | {
        "attn_type": "rope", "use_pre_transformer_norm": True, "global_pool": "map",
        "rope_grid_offset": 1.0, "rope_grid_indexing": "xy", "use_fc_norm": False,
        "attn_pool_num_heads": 4, "use_post_transformer_norm": True, "class_token": True,
    },
    "turns of every head": ROTARY | {"rope_type": "mixed", "use_abs_pos_emb": False},
    "turns and a table": ROTARY | {"no_embed_class": True, "init_values": 0.3},
    "registers alone": ROTARY | {"class_token": False, "num_reg_tokens": 1},
    "norms of queries and keys": ROTARY | {
        "attn_type": "rope", "qkv_fused": False, "qk_norm": True, "attn_only_layer_scale": True,
        "init_values": 0.5, "num_reg_tokens": 2,
    },
    "images of any size": DINOV3 | {"dynamic_img_size": True},
    "turns of every head, any size": ROTARY | {"rope_type": "mixed", "dynamic_img_size": True},
    "interleaved turns": ROTARY | {"rope_type": "mrope", "use_abs_pos_emb": False},
}  # fmt: skip
BEITS: dict[str, dict[str, Any]] = {
    "BEiT": {"use_abs_pos_emb": False, "use_rel_pos_bias": True, "init_values": 0.2},
    "BEiT, before fine-tuning": {"use_shared_rel_pos_bias": True, "use_abs_pos_emb": True},
    "BEiT, both biases": {"use_shared_rel_pos_bias": True, "use_rel_pos_bias": True},
    "BEiT, class token": {"use_rel_pos_bias": True, "global_pool": "token"},
}
RELPOS: dict[str, dict[str, Any]] = {
    "offsets by a network": {"init_values": 0.2},
    "offsets by one network": {"shared_rel_pos": True, "rel_pos_dim": 8, "class_token": True},
    "offsets by tables": {"rel_pos_type": "bias", "class_token": True, "global_pool": "token"},
    "offsets, norms after": {"block_fn": ResPostRelPosBlock, "init_values": 0.5},
}
OTHERS = (*EVAS, *BEITS, *RELPOS)
GRID = (4, 4)


def other(word: str, **changes: Any) -> Any:
    """timm's model of one of `OTHERS`."""
    for kind, variants in ((Eva, EVAS), (Beit, BEITS), (VisionTransformerRelPos, RELPOS)):
        if word in variants:
            return drawn(kind(**{**SHAPE, **variants[word], **changes}))
    raise KeyError(word)


def other_backbone(word: str) -> WrappedViT:
    """Its adapter."""
    backbone = as_backbone(other(word))
    assert isinstance(backbone, WrappedViT)
    return backbone


def images(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(7))
