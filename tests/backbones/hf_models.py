"""Small models of transformers of every class that is run, all weights drawn."""

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from small_vits import drawn

transformers = pytest.importorskip("transformers")

PLAIN: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48,
    "image_size": 32, "patch_size": 8, "num_labels": 5,
}  # fmt: skip
BEIT = PLAIN | {"use_relative_position_bias": True, "layer_scale_init_value": 0.3}
DINO = PLAIN | {"mlp_ratio": 2, "layerscale_value": 0.5}
TOWERS = {"CLIP": "CLIPVisionConfig", "Siglip": "SiglipVisionConfig"}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "ViTModel": ("ViTConfig", PLAIN),
    "ViTForImageClassification": ("ViTConfig", PLAIN),
    "DeiTModel": ("DeiTConfig", PLAIN),
    "DeiTForImageClassification": ("DeiTConfig", PLAIN),
    "DeiTForImageClassificationWithTeacher": ("DeiTConfig", PLAIN),
    "Dinov2Model": ("Dinov2Config", DINO | {"use_swiglu_ffn": True}),
    "Dinov2ForImageClassification": ("Dinov2Config", DINO),
    "Dinov2WithRegistersModel": ("Dinov2WithRegistersConfig", DINO),
    "Dinov2WithRegistersForImageClassification": (
        "Dinov2WithRegistersConfig", DINO | {"use_swiglu_ffn": True},
    ),
    "DINOv3ViTModel": (
        "DINOv3ViTConfig", PLAIN | {"num_register_tokens": 4, "use_gated_mlp": True},
    ),
    "BeitModel": ("BeitConfig", BEIT | {"use_absolute_position_embeddings": True}),
    "BeitForImageClassification": (
        "BeitConfig", BEIT | {"use_shared_relative_position_bias": True},
    ),
    "CLIPVisionModel": ("CLIPVisionConfig", PLAIN | {"projection_dim": 6}),
    "CLIPVisionModelWithProjection": ("CLIPVisionConfig", PLAIN | {"projection_dim": 6}),
    "CLIPForImageClassification": ("CLIPConfig", {"vision_config": PLAIN, "num_labels": 5}),
    "SiglipVisionModel": ("SiglipVisionConfig", PLAIN),
    "SiglipForImageClassification": ("SiglipConfig", {"vision_config": PLAIN, "num_labels": 5}),
}  # fmt: skip
PREPROCESSOR = {
    "do_resize": True, "size": {"shortest_edge": 40}, "do_center_crop": True,
    "crop_size": {"height": 32, "width": 32}, "resample": 3, "do_rescale": True,
    "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.2, 0.1],
}  # fmt: skip


def hf_model(kind: str) -> Any:
    """A model of this class, in evaluation mode."""
    config, options = CONFIGS[kind]
    return drawn(getattr(transformers, kind)(getattr(transformers, config)(**options)))


def folder_of(model: Any, folder: Path) -> Path:
    """The folder, with the model and a preprocessor's file in it."""
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    return folder


@cache
def hf_backbone(kind: str) -> Any:
    """Its adapter."""
    from autotok.backbones.loading import as_backbone

    return as_backbone(hf_model(kind))


@cache
def hf_exact(kind: str) -> Any:
    """The same in double precision."""
    return copy.deepcopy(hf_backbone(kind)).double()


def pixels(count: int = 2, side: int = 32) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(3))
