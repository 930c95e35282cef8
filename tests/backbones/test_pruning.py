"""Pruned ViTs: cut out equals masked, counted exactly, saved and read again, refused by name."""

import dataclasses
import pickle
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hf_models import hf_model
from other_vits import other_backbone
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import autotok
from autotok.backbones.base import Backbone
from autotok.backbones.hf_facts import hf_facts
from autotok.backbones.hf_vit import HFViT
from autotok.backbones.loading import as_backbone, load_backbone, load_structure, save_backbone
from autotok.backbones.pruning import (
    check_subnet,
    holds_its_origin,
    in_whole_shapes,
    pruned,
    pruned_facts,
)
from autotok.backbones.timm_vit import VisionTransformer, timm, timm_facts
from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig, Reduction, SubnetSpec
from autotok.counting.counter import count_macs
from autotok.counting.macs import cost
from autotok.errors import ConfigError, UnsupportedBackbone
from autotok.facts import BackboneFacts
from autotok.pruned_spec import PrunedSpec, listed_units, units_text
from autotok.testing.model import default_backbones

THEIRS = (
    "DINOv3ViTModel", "BeitModel", "CLIPVisionModelWithProjection", "ViTForImageClassification",
    "DeiTForImageClassificationWithTeacher", "Dinov2Model", "Dinov2WithRegistersModel",
    "SiglipVisionModel",
)  # fmt: skip
SMALL = {"img_size": 32, "embed_dim": 48, "depth": 4, "num_heads": 3, "num_classes": 10}
FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "deit": lambda: timm.create_model("deit_tiny_patch16_224", patch_size=8, **SMALL),
    "distilled": lambda: timm.create_model(
        "deit_tiny_distilled_patch16_224", patch_size=8, **SMALL
    ),
    "dinov2 with registers": lambda: timm.create_model(
        "vit_small_patch14_reg4_dinov2", patch_size=8, init_values=0.3, **SMALL
    ),
    "gated MLP": lambda: timm.create_model("vit_giant_patch14_dinov2", patch_size=8, **SMALL),
    "norms of queries and keys": lambda: timm.create_model(
        "vit_tiny_patch16_224", patch_size=8, qk_norm=True, qkv_bias=False, **SMALL
    ),
    "norms after branches": lambda: VisionTransformer(
        patch_size=8, block_fn=timm.models.vision_transformer.ResPostBlock, **SMALL
    ),
    "eva, rotary": lambda: timm.create_model("vit_small_patch16_dinov3", patch_size=8, **SMALL),
    "beit": lambda: timm.create_model("beit_base_patch16_224", patch_size=8, **SMALL),
    **{kind: partial(hf_model, kind) for kind in THEIRS},
}
EVERY = [
    pytest.param(family, marks=[pytest.mark.slow] if family in THEIRS[3:] else [])
    for family in FAMILIES
]


def made(family: str) -> Backbone:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = FAMILIES[family]().eval()
        for parameter in model.parameters():  # no bias may be 0, no scale 1
            parameter.data += 0.1 * torch.randn_like(parameter)
    return as_backbone(model)


def one_block(name: str) -> Backbone:
    return as_backbone(timm.create_model(name, depth=1, embed_dim=48, num_heads=3))


def spec_of(backbone: Backbone) -> PrunedSpec:
    """Blocks 0, 1 and 3; in block 1 one head alone, in the others the first and the last."""
    hidden = backbone.facts.blocks[0].hidden
    third, sixth = (units_text(list(range(1, hidden, step)), hidden) for step in (3, 6))
    return PrunedSpec((0, 1, 3), ((0, 2), (1,), (0, 2)), (third, sixth, third))


def masked(backbone: Backbone, spec: PrunedSpec) -> Backbone:
    """The same in other words: what is pruned is multiplied by 0 where it would be heard."""
    twin: Any = deepcopy(backbone)
    for index in range(backbone.facts.num_blocks):
        block = twin.block(index)
        if index not in spec.blocks:
            block.forward = lambda x, *args, **kwargs: x
            continue
        at, facts = spec.blocks.index(index), backbone.facts.blocks[index]
        out = twin.layout.out if isinstance(twin, HFViT) else "proj"
        out = getattr(block.get_submodule(twin.attention_at), out).weight.data
        for head in set(range(facts.heads)) - set(spec.heads[at]):
            out[:, head * facts.head_dim : (head + 1) * facts.head_dim] = 0
        last = getattr(block.mlp, "fc2" if hasattr(block.mlp, "fc2") else "down_proj").weight.data
        for unit in set(range(facts.hidden)) - set(listed_units(spec.units[at])):
            last[:, unit] = 0
    return cast(Backbone, twin)


def its_own_answer(backbone: Any, images: torch.Tensor) -> torch.Tensor:
    """What the wrapped model itself says."""
    found = backbone.model(images)
    return cast(torch.Tensor, found[backbone.own.primary] if isinstance(backbone, HFViT) else found)


def told_by_the_model(backbone: Any) -> BackboneFacts:
    """Facts read off the wrapped model."""
    if isinstance(backbone, HFViT):
        return hf_facts(backbone.model, backbone.tower, backbone.facts.name, None)
    facts = timm_facts(
        backbone.model, backbone.facts.name, family=backbone.facts.family,
        carries_positions=backbone.facts.carries_positions,
    )  # fmt: skip
    return dataclasses.replace(facts, one_size=backbone.facts.one_size)


def images(backbone: Backbone, number: int = 2) -> torch.Tensor:
    return torch.randn(
        number, *backbone.facts.image_shape, generator=torch.Generator().manual_seed(3)
    )


@pytest.mark.parametrize("family", EVERY)
@torch.no_grad()
def test_what_is_cut_out_equals_what_is_masked(family: str) -> None:
    backbone = made(family)
    spec = spec_of(backbone)
    cut, x = pruned(backbone, spec), images(backbone)
    expected = its_own_answer(masked(backbone, spec), x)
    assert (cut(x) - expected).abs().max() < 1e-5 * max(1.0, expected.abs().max())
    assert (backbone(x) - expected).abs().max() > 1e-2


@pytest.mark.parametrize("family", EVERY)
def test_what_is_cut_out_is_counted_exactly(family: str) -> None:
    backbone = made(family)
    spec = spec_of(backbone)
    cut = pruned(backbone, spec)
    assert cut.facts == pruned_facts(backbone, spec)
    assert told_by_the_model(cut) == cut.facts
    config = CompressionConfig("evit", (Reduction(1, num_keep=7),), subnet=spec)
    assert cost(cut.facts, config).macs == count_macs(compress_backbone(backbone, config))
    assert cost(cut.facts, config).params == sum(p.numel() for p in cut.parameters())
    with FlopCounterMode(display=False) as counter:
        cut(images(backbone, 1))
    assert counter.get_total_flops() > 0


def test_a_structure_goes_through_files_unchanged() -> None:
    spec = spec_of(tiny_backbone())
    config = CompressionConfig(subnet=spec)
    assert CompressionConfig.from_json(config.to_json()) == config
    assert listed_units(units_text([0, 5, 9], 10)) == [0, 5, 9]
    assert spec.short == "3 blocks, heads 1-2, MLP 32-64"


@torch.no_grad()
def test_weights_go_into_the_shapes_of_the_uncompressed_model_and_back(tmp_path: Path) -> None:
    backbone = tiny_backbone()
    cut = pruned(backbone, spec_of(backbone))
    assert holds_its_origin(cut)
    for parameter in cut.parameters():
        parameter.add_(0.1)  # as a fine-tune would
    assert not holds_its_origin(cut)
    save_backbone(in_whole_shapes(cut), tmp_path / "w.safetensors", name="tiny")
    again = pruned(load_backbone("tiny", checkpoint=tmp_path / "w.safetensors"), spec_of(backbone))
    assert torch.equal(again(images(backbone)), cut(images(backbone)))


@torch.no_grad()
def test_a_pruned_model_of_transformers_is_read_again_from_its_folder_and_file(
    tmp_path: Path,
) -> None:
    hf_model("BeitModel").save_pretrained(tmp_path / "beit")
    name, file = f"hf:{tmp_path / 'beit'}", tmp_path / "w.safetensors"
    backbone = load_backbone(name)
    cut = pruned(backbone, spec_of(backbone))
    expected = cut(images(backbone))
    assert torch.equal(pruned(load_backbone(name), spec_of(backbone))(images(backbone)), expected)
    for parameter in cut.parameters():
        parameter.add_(0.1)
    save_backbone(in_whole_shapes(cut), file, name=name)
    again = pruned(load_backbone(name, checkpoint=file), spec_of(backbone))
    assert torch.equal(again(images(backbone)), cut(images(backbone)))
    assert not torch.equal(again(images(backbone)), expected)


@torch.no_grad()
def test_layers_of_names_that_nobody_knows_are_not_cut() -> None:
    backbone = tiny_backbone()
    mlp = backbone.block(2).mlp
    mlp.last, mlp.fc2 = mlp.fc2, None
    with pytest.raises(UnsupportedBackbone, match="block 2 has layers of names that pruning"):
        check_subnet(backbone, spec_of(backbone))


def test_a_pruned_model_knows_where_it_came_from_until_it_is_pickled() -> None:
    backbone = tiny_backbone()
    cut = pruned(backbone, spec_of(backbone))
    assert cut.whole is deepcopy(cut).whole is backbone
    assert backbone.whole is backbone
    assert pickle.loads(pickle.dumps(cut)).uncut is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks": (0, 1, 4)}, "keeps block 4, but backbone 'tiny' has blocks 0 to 3"),
        (
            {"heads": ((0,), (3,), (0,))},
            "keeps head 3 of block 1, but .* has heads 0 to 2",
        ),
        (
            {"units": ("f" * 48, "f" * 12, "f" * 48)},
            "lists 48 MLP units of block 1,.* has 192",
        ),
    ],
)
def test_a_subnet_of_another_model_is_told(changes: dict[str, tuple[int]], message: str) -> None:
    backbone = tiny_backbone()
    config = CompressionConfig(subnet=dataclasses.replace(spec_of(backbone), **changes))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=message):
        compress_backbone(backbone, config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks": (0, 1)}, "lists 2 blocks, heads of 3 and units of 3"),
        ({"blocks": (1, 0, 3)}, r"keeps blocks \[1, 0, 3\]; give whole numbers"),
        ({"heads": ((0,), (), (0,))}, r"keeps heads \[\]"),
        ({"units": ("f", "0", "f")}, "keeps units '0'"),
        ({"units": ("f", "0x1", "f")}, "keeps units '0x1'"),
    ],
)
def test_a_subnet_that_none_can_be_is_told(changes: dict[str, tuple[int]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(spec_of(tiny_backbone()), **changes)  # type: ignore[arg-type]


def test_a_subnet_of_a_supernet_is_none_of_a_plain_model() -> None:
    config = CompressionConfig(subnet=SubnetSpec(16, (2, 2), (2.0, 2.0)))
    with pytest.raises(ConfigError, match=r"\(16 wide.*\), and backbone 'tiny' is no AutoFormer"):
        compress_backbone(tiny_backbone(), config)


def test_a_subnet_is_none_of_another_subnet_of_its_supernet() -> None:
    backbone = default_backbones()[3]
    own = backbone.subnet
    assert own is not None
    other = dataclasses.replace(own, heads=(1,) * own.depth)
    assert compress_backbone(backbone, CompressionConfig(subnet=own)).config.subnet == own
    for ask in (compress_backbone, autotok.macs):
        with pytest.raises(ConfigError, match=r"heads 1, .* is 48 wide, 4 deep, heads 3"):
            ask(backbone, CompressionConfig(subnet=other))


def test_a_pruned_model_is_not_pruned_to_another_structure() -> None:
    backbone = tiny_backbone()
    cut = pruned(backbone, spec_of(backbone))
    other = dataclasses.replace(spec_of(backbone), blocks=(0, 1, 2))
    with pytest.raises(ConfigError, match="'tiny' is pruned already, to 3 blocks"):
        compress_backbone(cut, CompressionConfig(subnet=other))
    assert compress_backbone(cut, CompressionConfig(subnet=spec_of(backbone))).backbone is cut


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (lambda: load_structure("autoformer_demo"), "chosen by the subnets of its supernet"),
        (lambda: load_structure("lvvit_s"), "parts of timm's and transformers' ViTs only"),
        (lambda: other_backbone("BEiT, both biases"), "blocks share one table of relative"),
        (lambda: as_backbone(hf_model("BeitForImageClassification")), "blocks share one table"),
        (lambda: other_backbone("offsets by one network"), "blocks share one table of relative"),
        (lambda: other_backbone("offsets by a network"), "block 0 has relative positions that"),
        (lambda: one_block("vit_small_patch16_rope_mixed_224"), "learned for every head"),
        (lambda: one_block("eva02_base_patch14_224"), "normalises across its MLP units"),
        (lambda: as_backbone(timm.create_model(
            "vit_tiny_patch16_224", patch_size=8, scale_attn_norm=True, **SMALL)),
         "block 0 normalises across its heads"),
    ],
)  # fmt: skip
def test_what_cannot_be_pruned_is_refused_by_name_with_the_reason(
    made: Callable[[], Backbone], reason: str
) -> None:
    backbone = made()
    with pytest.raises(UnsupportedBackbone, match=f"'{backbone.facts.name}' .*{reason}"):
        check_subnet(backbone, PrunedSpec((0,), ((0,),), ("8",)))
