"""Models and bundles that the tests of exports share."""

import torch
from torch import Tensor

from autotok.backbones.base import Backbone
from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone
from autotok.compression.model import CompressedViT
from autotok.config import CompressionConfig, Reduction
from autotok.evaluation.preprocessing import preprocessing_of
from autotok.export.bundle import BackboneRef, Bundle
from autotok.methods.base import Placement
from autotok.methods.image_scoring import ImageScoring
from autotok.methods.registry import get_method
from autotok.testing.reduction_case import stand_in

CONFIG = CompressionConfig("topk", (Reduction(1, num_keep=9), Reduction(2, num_keep=5)))


def made() -> tuple[CompressedViT, Bundle]:
    backbone = tiny_backbone()
    with torch.no_grad():
        backbone.model.head.bias.add_(torch.arange(10.0))  # as a fine-tune would
    bundle = Bundle(
        BackboneRef.of(backbone.facts),
        CONFIG,
        preprocessing_of(backbone).to_dict(),
        {"top1_pct": 91.5, "macs_g": torch.tensor(0.5)},
    )
    return compress_backbone(backbone, CONFIG).eval(), bundle


def images() -> torch.Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def photos(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def compressed(name: str, backbone: Backbone) -> CompressedViT:
    method = get_method(name)
    reductions = [Reduction(1, num_keep=12), Reduction(2, num_keep=9)]
    if name == "none":
        reductions = []
    elif method.placement is Placement.BEFORE_BLOCKS:
        reductions = [Reduction(0, num_keep=12)]
    elif method.single_layer:
        reductions = reductions[:1]
    model = compress_backbone(backbone, CompressionConfig(name, tuple(reductions)))
    for reducer in model.reducers.values():
        if isinstance(reducer, ImageScoring):  # whose weights tests do not have
            reducer.network = stand_in()
    return model
