"""Without numbers a model is what it is with them: names, shapes, kinds of tensors."""

import pytest
import torch

from autotok.backbones.timm_vit import VisionTransformer
from autotok.backbones.tiny import tiny_vit
from autotok.backbones.unfilled import making_on

SHAPE = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}


def test_a_model_on_the_meta_device_has_the_same_tensors() -> None:
    with torch.device("meta"):
        filled = VisionTransformer(**SHAPE).state_dict()
    with making_on("meta"):
        found = VisionTransformer(**SHAPE).state_dict()
    assert [*found] == [*filled]
    for name, tensor in filled.items():
        assert found[name].is_meta
        assert (found[name].shape, found[name].dtype) == (tensor.shape, tensor.dtype)
        assert found[name].stride() == tensor.stride()


@pytest.mark.parametrize("seed", [0, 1])
def test_elsewhere_it_has_the_same_random_numbers(seed: int) -> None:
    usual = tiny_vit(seed=seed).state_dict()
    with making_on("cpu"):
        found = tiny_vit(seed=seed).state_dict()
    assert all(found[k].equal(t) for k, t in usual.items())
    assert float(found["blocks.0.attn.qkv.weight"].std()) > 0.0
