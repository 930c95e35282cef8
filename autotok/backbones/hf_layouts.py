"""Where the ViTs of Hugging Face transformers keep their parts, as data: one row for a family, one
for each of its model classes. Names are those of transformers 5."""

from __future__ import annotations

from dataclasses import dataclass, replace

PREFIX = "hf:"
"""Of the names of their models."""
HALF = (0.5, 0.5, 0.5)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


@dataclass(frozen=True)
class TowerLayout:
    """One family's tower. Dotted names, those of norms and scales below a block."""

    blocks: str
    norms: tuple[str, str]
    final: str
    """The norm of all tokens after the last block; "" for none."""
    attention: str = "attention"
    out: str = "o_proj"
    scales: tuple[str, str] = ("", "")
    """LayerScales: modules, or vectors; "" for none."""
    stem: str = "embeddings.patch_embeddings.projection"
    table: str = "embeddings.position_embeddings"
    """The absolute positions, a table or an embedding; "" for none."""
    pre_norm: str = ""
    resizes: bool = True
    """Whether it takes images of other sizes than its configuration's."""
    mean: tuple[float, ...] = IMAGENET[0]
    std: tuple[float, ...] = IMAGENET[1]
    """What images are normalised with where no file says it."""


_BEFORE = ("layernorm_before", "layernorm_after")
_VIT = TowerLayout("layers", _BEFORE, "layernorm")
_DINO = TowerLayout(
    "encoder.layer", ("norm1", "norm2"), "layernorm", scales=("layer_scale1", "layer_scale2")
)
_PAIR = TowerLayout(
    "encoder.layers",
    ("layer_norm1", "layer_norm2"),
    "post_layernorm",
    attention="self_attn",
    out="out_proj",
    stem="embeddings.patch_embedding",
    table="embeddings.position_embedding",
    mean=HALF,
    std=HALF,
)
LAYOUTS = {
    "vit": replace(_VIT, mean=HALF, std=HALF),
    "deit": _VIT,
    "dinov2": _DINO,
    "dinov2_with_registers": _DINO,
    "dinov3_vit": replace(
        _DINO, blocks="model.layer", final="norm", stem="embeddings.patch_embeddings", table=""
    ),
    "beit": replace(_VIT, scales=("lambda_1", "lambda_2"), resizes=False, mean=HALF, std=HALF),
    "clip_vision_model": replace(
        _PAIR, final="", pre_norm="pre_layrnorm", mean=OPENAI[0], std=OPENAI[1]
    ),
    "siglip_vision_model": _PAIR,
}
"""By the `model_type` of the tower's configuration."""


@dataclass(frozen=True)
class ModelLayout:
    """One model class: where its tower is, and what it makes of the tokens."""

    tower: str = ""
    """Dotted name; "" where the model is the tower."""
    pooling: str = "cls"
    """As in the facts; BEiT's configuration may say otherwise."""
    primary: str = "pooler_output"
    """The field of its output that everything else in autotok takes for its answer."""
    output: str = "BaseModelOutputWithPooling"
    """The class of its output."""


def _classifier(tower: str, pooling: str = "cls") -> ModelLayout:
    return ModelLayout(tower, pooling, "logits", "ImageClassifierOutput")


MODELS = {
    "ViTModel": ModelLayout(),
    "ViTForImageClassification": _classifier("vit"),
    "DeiTModel": ModelLayout(),
    "DeiTForImageClassification": _classifier("deit"),
    "DeiTForImageClassificationWithTeacher": ModelLayout(
        "deit", "cls+dist", "logits", "DeiTForImageClassificationWithTeacherOutput"
    ),
    "Dinov2Model": ModelLayout(),
    "Dinov2ForImageClassification": _classifier("dinov2", "cls+mean"),
    "Dinov2WithRegistersModel": ModelLayout(),
    "Dinov2WithRegistersForImageClassification": _classifier("dinov2_with_registers", "cls+mean"),
    "DINOv3ViTModel": ModelLayout(),
    "BeitModel": ModelLayout(output="BeitModelOutputWithPooling"),
    "BeitForImageClassification": _classifier("beit"),
    "CLIPVisionModel": ModelLayout(),
    "CLIPVisionModelWithProjection": ModelLayout(
        "vision_model", "cls", "image_embeds", "CLIPVisionModelOutput"
    ),
    "CLIPForImageClassification": _classifier("vision_model", "mean"),
    "SiglipVisionModel": ModelLayout(pooling="map"),
    "SiglipForImageClassification": _classifier("vision_model", "mean"),
}
"""By class name."""
DEFAULTS = {
    "vit": "ViTModel",
    "deit": "DeiTModel",
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
    "dinov3_vit": "DINOv3ViTModel",
    "beit": "BeitModel",
    "clip": "CLIPVisionModelWithProjection",
    "clip_vision_model": "CLIPVisionModel",
    "siglip": "SiglipVisionModel",
    "siglip_vision_model": "SiglipVisionModel",
}
"""By `model_type`: the class that is loaded where a configuration names none of `MODELS`."""
REASONS = {
    "CLIPModel": "it is two towers; give the images' own, model.vision_model",
    "SiglipModel": "it is two towers; give the images' own, model.vision_model",
    "Siglip2VisionModel": "it takes patches of images of any shape, with masks",
    "SwinModel": "it attends inside windows",
    "Swinv2Model": "it attends inside windows",
    "HieraModel": "it is a pyramid of windows",
    "CvtModel": "it mixes convolutions and transformers",
    "ViTMAEModel": "it drops patches itself; load its weights as ViTModel",
    "Dinov2Backbone": "it gives feature maps of several blocks; load it as Dinov2Model",
    "DINOv3ViTBackbone": "it gives feature maps of several blocks; load it as DINOv3ViTModel",
    "BeitBackbone": "it gives feature maps of several blocks; load it as BeitModel",
}
"""Why other classes are not run."""
