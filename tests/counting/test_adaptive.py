"""Costs of images that cost different amounts, as the meter reads them."""

import pytest
import torch
from early import early_model
from early import images as early_images

from autotok.backbones.timm_vit import TimmViT, VisionTransformer
from autotok.compression.compress import compress_backbone
from autotok.counting.adaptive import Metered, metered
from autotok.counting.counter import count_each, count_macs
from autotok.exits import ExitPolicy
from autotok.methods.base import Count
from autotok.methods.registry import get_method, list_methods, unmet_need
from autotok.testing.model import example_config


def test_the_meter_says_where_images_stopped_and_what_each_cost() -> None:
    made = early_model(ExitPolicy((1, 3), threshold=(0.5,)))
    meter = metered(made)
    assert isinstance(meter, Metered)
    pictures = early_images(16)
    with torch.no_grad():
        torch.testing.assert_close(meter(pictures), made(pictures), atol=2e-5, rtol=1e-5)
    found = meter.image_costs
    assert found is not None
    assert len(found.exits) == 3
    assert sum(found.exits) == 16
    assert found.macs.tolist() == count_each(made, pictures)
    assert (found.tokens[:, -1] == 0).sum() == found.exits[0] + found.exits[1]


@pytest.mark.parametrize(
    "name", [n for n in list_methods() if get_method(n).count is not Count.STATIC]
)
@pytest.mark.parametrize("pool", ["map", "avg"])
def test_images_are_counted_under_every_pooling(name: str, pool: str) -> None:
    """One that keeps its parameters' modes and gradients as they were."""
    shape = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 3}
    backbone = TimmViT(VisionTransformer(**shape, class_token=False, global_pool=pool), name=pool)
    if unmet_need(get_method(name), backbone.facts) is not None:
        return
    made = compress_backbone(backbone, example_config(get_method(name), backbone.facts))
    made.backbone.train()
    counted = count_each(made, early_images(2))
    assert 0 < min(counted) <= max(counted) < 1.1 * count_macs(backbone)
    assert made.backbone.training
    assert all(p.requires_grad for p in made.parameters())
