"""Stand-ins for the code behind published figures: the same numbers by other operators."""

import pytest
import torch

import autotok.methods  # noqa: F401
from autotok.backbones.autoformer import AutoFormer, SupernetSpec
from autotok.backbones.loading import load_structure
from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig, Reduction
from autotok.errors import ConfigError
from autotok.predicting.as_published import DenseAutoFormer, as_published
from autotok.predicting.trace import trace

SPEC = SupernetSpec(
    embed_dim=24,
    depth=2,
    heads=3,
    mlp_ratio=2.0,
    embed_choices=(24,),
    depth_choices=(2,),
    heads_choices=(3,),
    mlp_ratio_choices=(2.0,),
    image_shape=(3, 32, 32),
    patch_size=8,
    num_classes=5,
    head_dim=8,
    max_offset=2,
)


def test_dense_positions_give_what_factorised_ones_give_while_no_token_is_gone() -> None:
    torch.manual_seed(0)
    own = AutoFormer(SPEC, SPEC.largest()).eval()
    for parameter in own.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    dense = DenseAutoFormer(SPEC, SPEC.largest()).eval()
    dense.load_state_dict(own.state_dict())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(dense(images), own(images), atol=1e-4, rtol=1e-4)


def test_the_stand_in_of_autoformer_small_costs_what_its_authors_code_costs() -> None:
    found = trace(as_published(load_structure("autoformer_small"), proportional=True))
    assert found.macs == pytest.approx(5.161e9, rel=1e-3)


def test_proportional_attention_adds_the_log_of_sizes_to_the_map() -> None:
    reductions = tuple(Reduction(layer, num_keep=180 - 9 * layer) for layer in range(3))
    config = CompressionConfig(method="tome", reductions=reductions)
    added = {}
    for proportional in (True, False):
        twin = as_published(load_structure("autoformer_tiny"), proportional=proportional)
        found = trace(compress_backbone(twin, config))
        shapes = [operator.outputs[0] for operator in found.operators if operator.name == "add"]
        maps = [shape for shape in shapes if len(shape) == 4 and shape[-1] == shape[-2]]
        added[proportional] = len(maps)
    blocks = load_structure("autoformer_tiny").facts.num_blocks
    assert added == {True: blocks + blocks - 1, False: blocks}  # block 0 knows no sizes yet


def test_other_backbones_have_no_dense_positions() -> None:
    with pytest.raises(ConfigError, match="relative_positions 'dense' means nothing on backbone"):
        as_published(tiny_backbone(), proportional=True)
