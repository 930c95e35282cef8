"""Models and bundles that the tests of exports share."""

from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from autotok.backbones.autoformer import AutoFormer, SupernetSpec
from autotok.backbones.base import Backbone
from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone
from autotok.compression.model import CompressedViT
from autotok.config import CompressionConfig, Reduction
from autotok.evaluation.preprocessing import preprocessing_of
from autotok.export.best_yaml import BackboneRef, Bundle
from autotok.methods.base import Placement, Training
from autotok.methods.image_scoring import ImageScoring
from autotok.methods.registry import get_method
from autotok.testing.reduction_case import stand_in

SPEC = SupernetSpec(
    embed_dim=32, depth=2, heads=2, mlp_ratio=2.0, embed_choices=(32,), depth_choices=(2,),
    heads_choices=(2,), mlp_ratio_choices=(2.0,), image_shape=(3, 32, 32), patch_size=8,
    num_classes=10, head_dim=16, max_offset=3,
)  # fmt: skip
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


def racing(path: Path) -> list[str]:
    """Operators of an ONNX file that ONNX Runtime's threads lose sums of."""
    nodes = onnx.load(str(path)).graph.node
    sums = [
        n for n in nodes if n.op_type == "ScatterND" and any(a.s == b"add" for a in n.attribute)
    ]
    return [node.name for node in sums]


def photos(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def compressed(name: str, backbone: Backbone) -> CompressedViT:
    """Reduced in the first two blocks that can: every block takes its time."""
    method = get_method(name)
    layers = range(method.first_layer, len(backbone.facts.blocks))
    reductions = [Reduction(n, num_keep=k) for n, k in zip(layers, (12, 9), strict=False)]
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
    if method.training_need is Training.REQUIRED:
        _draw(model.reducers)
    return model


def _draw(reducers: nn.Module) -> None:
    """As if trained: at their small first weights selectors tie, and rounding decides who stays."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in reducers.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.3)


def autoformer() -> Backbone:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoFormer(SPEC, SPEC.largest())
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
    return model.eval()
