"""Importance: what the output does not depend on counts nothing, whatever the batches are."""

import copy

import pytest
import torch
from hf_models import hf_backbone

from autotok.backbones.importance import importance_of
from autotok.backbones.loading import load_structure
from autotok.backbones.timm_vit import TimmViT
from autotok.backbones.tiny import tiny_backbone
from autotok.errors import UnsupportedBackbone

IMAGES = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_what_nobody_hears_counts_nothing_and_the_rest_does() -> None:
    backbone = tiny_backbone()
    block = backbone.block(1)
    block.attn.proj.weight.data[:, 16:32] = 0  # head 1
    block.mlp.fc2.weight.data[:, 5] = 0
    found = importance_of(backbone, [IMAGES])
    assert found.num_images == 6
    assert [h > 0 for h in found.heads[1]] == [True, False, True]
    assert [i for i, u in enumerate(found.units[1]) if u == 0.0] == [5]
    assert min(found.blocks) > 0
    assert not backbone.block(1).attn.proj._forward_pre_hooks


def test_batches_change_nothing_and_the_seed_is_all_there_is_to_chance() -> None:
    backbone = tiny_backbone()
    whole = importance_of(backbone, [IMAGES], seed=1)
    parts = importance_of(backbone, [IMAGES[:4], IMAGES[4:]], seed=1)
    assert whole == importance_of(backbone, [IMAGES], seed=1)
    assert parts.blocks == pytest.approx(whole.blocks, rel=1e-4)
    assert parts.heads[2] == pytest.approx(whole.heads[2], rel=1e-4)
    assert whole != importance_of(backbone, [IMAGES], seed=2)


def test_a_gate_is_worth_what_closing_it_a_little_changes() -> None:
    """Over many directions, half the score is the divergence of a small step, in squared steps."""
    backbone = tiny_backbone(2)
    image, step = IMAGES[:1], 0.02
    score = importance_of(backbone, [image.expand(400, -1, -1, -1)]).heads[0][1]
    with torch.no_grad():
        before = backbone(image).double().log_softmax(-1)
        backbone.block(0).attn.proj.weight[:, 16:32] *= 1 - step
        after = backbone(image).double().log_softmax(-1)
        divergence = float((before.exp() * (before - after)).sum())
    assert score * step**2 / 2 == pytest.approx(divergence, rel=0.25)


def test_a_headless_model_has_parts_that_matter_too() -> None:
    model = tiny_backbone(2).weights
    model.reset_classifier(0)  # type: ignore[operator]
    found = importance_of(TimmViT(model, name="headless"), [IMAGES])
    assert min(min(row) for row in found.heads) > 0


def test_layers_of_transformers_have_gates_too() -> None:
    backbone = hf_backbone("DINOv3ViTModel")
    block = backbone.block(1)
    before = copy.deepcopy(block.state_dict())
    block.attention.o_proj.weight.data[:, 8:16] = 0  # head 1
    block.mlp.down_proj.weight.data[:, 5] = 0
    found = importance_of(backbone, [IMAGES])
    block.load_state_dict(before)
    assert [h > 0 for h in found.heads[1]] == [True, False, True, True]
    assert [i for i, u in enumerate(found.units[1]) if u == 0.0] == [5]


def test_a_backbone_that_cannot_be_pruned_is_not_ranked() -> None:
    with pytest.raises(UnsupportedBackbone, match="'autoformer_demo' cannot be pruned"):
        importance_of(load_structure("autoformer_demo"), [])
