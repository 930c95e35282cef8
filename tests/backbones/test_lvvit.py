"""LV-ViT: held to the authors' code, counted exactly, its second head limited to live patches."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

from autotok.backbones.loading import known_backbones, load_backbone, load_structure
from autotok.backbones.lvvit import LVVIT, LVViT, LVViTSpec, lvvit_from_state_dict
from autotok.config import CompressionConfig
from autotok.counting.macs import cost
from autotok.errors import CheckpointError, ConfigError
from autotok.evaluation.preprocessing import IMAGENET_MEAN, IMAGENET_STD, preprocessing_of
from autotok.methods.primitives import select
from autotok.tokens import Needs, Tokens

GOLDEN = Path(__file__).parents[1] / "golden"
IMAGES = torch.from_numpy(np.load(GOLDEN / "inputs.npz")["x"])
SMALL = LVViTSpec(24, 2, 3, 48, image_shape=(3, 32, 32), patch_size=8, num_classes=5)


@pytest.fixture(scope="module")
def golden() -> Any:
    return np.load(GOLDEN / "lvvit_tiny.npz")


@pytest.fixture(scope="module")
def backbone(golden: Any) -> LVViT:
    weights = {k[3:]: torch.from_numpy(golden[k]) for k in golden.files if k.startswith("sd.")}
    spec = LVViTSpec(96, 6, 3, 288, image_shape=(3, 64, 64), patch_size=8, num_classes=10)
    return lvvit_from_state_dict(weights, spec, name="golden")


def small(seed: int = 0) -> LVViT:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LVViT(SMALL, name="lvvit_s").eval()


@pytest.mark.parametrize(("name", "crop"), [("lvvit_s", 0.9), ("lvvit_m", 1.0)])
def test_images_are_prepared_as_the_authors_do(name: str, crop: float) -> None:
    # TokenLabeling, tlt/models/lvvit.py, default_cfgs
    how = preprocessing_of(load_structure(name, image_size=32))
    assert (how.interpolation, how.crop_pct) == ("bicubic", crop)
    assert (how.mean, how.std) == (IMAGENET_MEAN, IMAGENET_STD)


@torch.no_grad()
def through(backbone: LVViT) -> Tokens:
    return backbone.run_blocks(backbone.embed(IMAGES)[0])


@torch.no_grad()
def test_both_heads_together_equal_the_official_logits(golden: Any, backbone: LVViT) -> None:
    np.testing.assert_allclose(backbone(IMAGES), golden["logits"], atol=2e-5)
    assert backbone.facts.params == json.loads(str(golden["config"]))["params"]


@torch.no_grad()
def test_without_a_live_patch_the_class_tokens_head_is_left(golden: Any, backbone: LVViT) -> None:
    tokens = through(backbone)
    nobody = torch.zeros(4, 64, dtype=torch.bool)
    padded = backbone.readout(dataclasses.replace(tokens, live=nobody))
    np.testing.assert_allclose(padded, golden["logits_cls"], atol=2e-5)
    empty = backbone.readout(select(tokens, torch.zeros(4, 0, dtype=torch.int64)))
    np.testing.assert_allclose(empty, golden["logits_cls"], atol=2e-5)


@torch.no_grad()
def test_only_live_patches_vote_in_the_second_head(backbone: LVViT) -> None:
    tokens = through(backbone)
    kept = backbone.readout(select(tokens, torch.arange(9).expand(4, -1)))
    first = (torch.arange(64) < 9).expand(4, -1)
    padded = backbone.readout(dataclasses.replace(tokens, live=first))
    masked = backbone.readout(dataclasses.replace(tokens, mask=first.float()))
    torch.testing.assert_close(padded, kept)
    torch.testing.assert_close(masked, kept)
    assert not torch.allclose(kept, backbone.readout(tokens))


@torch.no_grad()
def test_taps_of_a_scout_are_those_of_the_attention(backbone: LVViT) -> None:
    tokens = backbone.embed(IMAGES)[0]
    needs = Needs.NORMED | Needs.KEYS | Needs.QUERIES | Needs.VALUES
    early, late = backbone.scout(2, tokens, needs), backbone.attend(2, tokens, needs)[1]
    for name in ("normed", "keys", "queries", "values"):
        torch.testing.assert_close(getattr(early, name), getattr(late, name))


@pytest.mark.parametrize(
    ("name", "params", "macs_g", "stem_g"),
    [("lvvit_s", 26_151_824, 6.55, 1.35), ("lvvit_m", 55_830_544, 12.68, 1.45)],
)
def test_published_sizes_come_out_of_the_shapes(
    name: str, params: int, macs_g: float, stem_g: float
) -> None:
    facts = load_structure(name).facts
    assert facts.params == params
    assert cost(facts, CompressionConfig()).macs_g == pytest.approx(macs_g, abs=0.006)
    assert facts.stem_macs / 1e9 == pytest.approx(stem_g, abs=0.006)
    assert name in known_backbones("lvvit*")


def test_the_cost_formula_is_what_torch_counts() -> None:
    backbone = small()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        backbone(torch.zeros(1, 3, 32, 32))
    # torch sees no fused attention on CPU: compare without the two attention products
    counted = counter.get_total_flops() // 2
    found = cost(backbone.facts, CompressionConfig())
    assert counted in (found.macs, found.macs_noattn)


def test_official_weights_load_and_positions_are_resampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LVVIT, "lvvit_s", dataclasses.replace(SMALL, num_classes=1000))
    path = tmp_path / "lvvit.safetensors"
    save_file({k: v.contiguous() for k, v in small().state_dict().items()}, path)
    same = load_backbone("lvvit_s", checkpoint=path)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(same(images), small()(images))
    larger = load_backbone("lvvit_s", checkpoint=path, image_size=64)
    assert larger.facts.grid == (8, 8)
    assert larger(torch.randn(1, 3, 64, 64)).shape == (1, 5)


def test_what_does_not_fit_is_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LVVIT, "lvvit_s", SMALL)
    weights = {k: v.contiguous() for k, v in small().state_dict().items()}
    lacking = {k: v for k, v in weights.items() if k != "norm.bias"}
    for tensors, words in (
        ({"head.weight": torch.zeros(5, 24)}, "lacks LV-ViT's 'aux_head'"),
        (lacking, "'norm.bias' is missing"),
        ({**weights, "blocks.0.ls1.gamma": torch.zeros(24)}, "has no place in it"),
        ({**weights, "norm.bias": torch.zeros(25)}, r"has shape \(25,\), expected \(24,\)"),
    ):
        path = tmp_path / "bad.safetensors"
        save_file(tensors, path)
        with pytest.raises(CheckpointError, match=words):
            load_backbone("lvvit_s", checkpoint=path)
    with pytest.raises(CheckpointError, match="give it with --checkpoint"):
        load_backbone("lvvit_s")
    with pytest.raises(ConfigError, match="a multiple of 8"):
        load_structure("lvvit_s", image_size=30)


@torch.no_grad()
def test_padding_neither_is_seen_nor_asks(backbone: LVViT) -> None:
    tokens = backbone.embed(IMAGES)[0]
    alone = select(tokens, torch.arange(9).expand(4, -1))
    padded = dataclasses.replace(tokens, live=(torch.arange(64) < 9).expand(4, -1))
    needs = Needs.COLUMN_MEANS
    expected, kept = backbone.attend(1, alone, needs)
    got, wide = backbone.attend(1, padded, needs)
    torch.testing.assert_close(got[:, :10], expected)
    torch.testing.assert_close(wide.column_means[..., :10], kept.column_means)
    assert wide.column_means[..., 10:].abs().max() == 0


def test_a_file_for_larger_images_keeps_their_size_and_passes_a_methods_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LVVIT, "lvvit_s", SMALL)
    large = LVViT(dataclasses.replace(SMALL, image_shape=(3, 48, 48))).eval()
    tensors = large.state_dict() | {"score_predictor.0.in_conv.0.weight": torch.zeros(1)}
    path = tmp_path / "lvvit.pth"
    torch.save({"model": {f"module.{key}": value for key, value in tensors.items()}}, path)
    found = load_backbone("lvvit_s", checkpoint=path)
    images = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(found(images), large(images))
