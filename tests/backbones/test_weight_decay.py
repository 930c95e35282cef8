"""Of no family do position tables, or the tokens beside the patches, decay in training."""

import pytest
from hf_models import CONFIGS, hf_backbone
from other_vits import OTHERS, other_backbone
from small_vits import DISTILLED, LAYOUTS, layout
from test_lvvit import small
from torch import nn

from autotok.backbones.base import Backbone
from autotok.backbones.demo import DEMO_SPEC, DEMO_SUBNET
from autotok.backbones.loading import as_backbone
from autotok.backbones.supernet import AutoFormerSupernet, SupernetView
from autotok.backbones.timm_vit import timm
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig, Reduction
from autotok.training.schedule import decay_groups

QUERIES = (".latent", ".probe", ".queries")
"""Of pooling: neither a position nor a token of the sequence."""


def backbone_of(name: str) -> Backbone:
    if name in CONFIGS:
        return hf_backbone(name)  # type: ignore[no-any-return]
    if name in OTHERS:
        return other_backbone(name)
    if name == "LV-ViT":
        return small()
    if name == "AutoFormer":
        return SupernetView(AutoFormerSupernet(DEMO_SPEC), DEMO_SUBNET).alone()
    return as_backbone(timm.create_model(DISTILLED) if name == "DeiT" else layout(name))


def decaying(module: nn.Module) -> set[str]:
    """Names of what decays and is no matrix of a layer."""
    layers = [m for m in module.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    matrices = {id(layer.weight) for layer in layers}
    decay = {id(p) for g in decay_groups(module, 0.1) if g["weight_decay"] for p in g["params"]}
    assert matrices & decay
    named = module.named_parameters()
    return {n for n, p in named if id(p) in decay - matrices and not n.endswith("in_proj_weight")}


@pytest.mark.parametrize("name", [*CONFIGS, *OTHERS, *LAYOUTS, "DeiT", "LV-ViT", "AutoFormer"])
def test_position_tables_and_tokens_of_every_family_do_not_decay(name: str) -> None:
    assert all(left.endswith(QUERIES) for left in decaying(backbone_of(name)))


def test_cf_vits_table_does_not_decay() -> None:
    config = CompressionConfig("cfvit", (Reduction(0, 0.5),))
    model = compress_backbone(as_backbone(layout("plain")), config)
    assert not decaying(model.reducers)
