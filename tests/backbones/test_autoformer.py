"""AutoFormer: held to the official code, cut exactly, positions carried with the tokens."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from autotok.backbones.autoformer import SupernetSpec
from autotok.backbones.autoformer_spaces import (
    supernet_from_state_dict,
)
from autotok.backbones.demo import DEMO_SPEC
from autotok.backbones.loading import load_backbone
from autotok.backbones.supernet import AutoFormerSupernet, SupernetView
from autotok.config import SubnetSpec
from autotok.errors import CheckpointError, ConfigError
from autotok.methods.primitives import select
from autotok.tokens import naive_coords

GOLDEN = Path(__file__).parents[1] / "golden"
IMAGES = torch.from_numpy(np.load(GOLDEN / "inputs.npz")["x"])


def files(key: str) -> list[Path]:
    """Golden files, also of the folder AUTOTOK_GOLDEN_DIR names, whose configuration has `key`."""
    extra = os.environ.get("AUTOTOK_GOLDEN_DIR")
    return [
        path
        for folder in [GOLDEN, *([Path(extra)] if extra else [])]
        for path in sorted(folder.glob("*.npz"))
        if key in config_of(path)
    ]


def config_of(path: Path) -> dict[str, Any]:
    with np.load(path) as arrays:
        return json.loads(str(arrays["config"])) if "config" in arrays else {}  # type: ignore[no-any-return]


SUBNETS = [
    pytest.param(path, key, id=f"{path.stem}-{key}")
    for path in files("supernet_args")
    for key in config_of(path)["subnets"]
]
PRUNED = files("prune_before_blocks")


@pytest.fixture(scope="module")
def golden() -> Any:
    return np.load(GOLDEN / "autoformer_supernet.npz")


@pytest.fixture(scope="module")
def supernet(golden: Any) -> AutoFormerSupernet:
    state = {k[3:]: torch.from_numpy(golden[k]) for k in golden.files if k.startswith("sd.")}
    return supernet_from_state_dict(state, origin="golden")


def subnet_of(entry: dict[str, Any]) -> SubnetSpec:
    return SubnetSpec(entry["embed_dim"][0], tuple(entry["num_heads"]), tuple(entry["mlp_ratio"]))


@pytest.mark.parametrize(("path", "key"), SUBNETS)
def test_views_and_cut_subnets_equal_the_official_subnets(
    supernet: AutoFormerSupernet, path: Path, key: str
) -> None:
    golden, entry = np.load(path), config_of(path)["subnets"][key]
    view = SupernetView(supernet, subnet_of(entry)).eval()
    alone = supernet.cut(subnet_of(entry)).eval()
    with torch.no_grad():
        np.testing.assert_allclose(view(IMAGES), golden[f"logits.{key}"], atol=2e-5)
        torch.testing.assert_close(alone(IMAGES), view(IMAGES), atol=1e-6, rtol=0)
    assert view.facts.params == entry["params"] == sum(p.numel() for p in alone.parameters())


@pytest.mark.parametrize(("path", "key"), SUBNETS)
def test_class_token_pooling_equals_the_official_one(
    supernet: AutoFormerSupernet, path: Path, key: str
) -> None:
    golden, entry = np.load(path), config_of(path)["subnets"][key]
    by_cls = AutoFormerSupernet(dataclasses.replace(supernet.spec, pooling="cls"))
    by_cls.load_state_dict(supernet.state_dict())
    view = SupernetView(by_cls, subnet_of(entry)).eval()
    with torch.no_grad():
        np.testing.assert_allclose(view(IMAGES), golden[f"logits_cls.{key}"], atol=2e-5)
    assert view.facts.cls_is_supervised


def run_pruned(supernet: AutoFormerSupernet, golden_pruned: Any, *, naive: bool) -> torch.Tensor:
    config = json.loads(str(golden_pruned["config"]))
    backbone = supernet.cut(subnet_of(config["subnet"])).eval()
    tokens, _ = backbone.embed(IMAGES)
    for layer in range(backbone.facts.num_blocks):
        if f"keep.{layer}" in golden_pruned.files:
            wanted = torch.from_numpy(golden_pruned[f"keep.{layer}"])
            assert tokens.coords is not None
            origin = tokens.coords[..., 0] * tokens.grid[1] + tokens.coords[..., 1]
            index = (origin[:, None] == wanted[..., None]).int().argmax(dim=-1)
            tokens = select(tokens, index)
        seen = tokens
        if naive and not tokens.raster:
            coords = naive_coords(tokens.num_patches).expand(len(IMAGES), -1, -1)
            seen = dataclasses.replace(tokens, coords=coords)
        tokens = tokens.with_x(tokens.x + backbone.attend(layer, seen)[0])
        tokens = tokens.with_x(tokens.x + backbone.feed(layer, tokens))
    return backbone.readout(tokens)


@pytest.mark.parametrize("path", PRUNED, ids=str)
@torch.no_grad()
def test_pruning_with_carried_positions_equals_masking_the_official_attention(
    supernet: AutoFormerSupernet, path: Path
) -> None:
    golden_pruned = np.load(path)
    carried = run_pruned(supernet, golden_pruned, naive=False)
    np.testing.assert_allclose(carried, golden_pruned["logits"], atol=2e-5)


@pytest.mark.parametrize("path", PRUNED, ids=str)
@torch.no_grad()
def test_naive_positions_reproduce_the_official_fault(
    supernet: AutoFormerSupernet, path: Path
) -> None:
    golden_pruned = np.load(path)
    naive = run_pruned(supernet, golden_pruned, naive=True)
    np.testing.assert_allclose(naive, golden_pruned["logits_naive_official"], atol=2e-5)


def test_official_checkpoints_load_and_others_are_refused(
    supernet: AutoFormerSupernet, tmp_path: Path
) -> None:
    path = tmp_path / "supernet.pth"
    torch.save({"model": supernet.state_dict(), "epoch": 3}, path)
    spec = SupernetSpec(192, 4, 3, 3.0, (192,), (4,), (3,), (3.0,))
    with pytest.raises(ConfigError, match="holds at most"):
        load_backbone("autoformer_small", checkpoint=path)
    small = load_backbone(
        "autoformer_small", checkpoint=path, subnet=SubnetSpec(128, (2,) * 3, (2.0,) * 3)
    )
    assert small.facts.num_blocks == 3
    assert spec.largest().depth == 4
    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, other)
    with pytest.raises(CheckpointError, match="fits neither"):
        load_backbone("autoformer_small", checkpoint=other)
    with pytest.raises(CheckpointError, match="--checkpoint"):
        load_backbone("autoformer_small")


@pytest.mark.parametrize("name", ["blocks.99999999.fc1.bias", "blocks.²x.bias", "blocks"])
def test_a_name_in_a_file_does_not_make_a_supernet_deep(name: str, tmp_path: Path) -> None:
    net = AutoFormerSupernet(DEMO_SPEC).state_dict()
    path = tmp_path / "supernet.pth"
    torch.save({"model": {**net, name: torch.zeros(1)}, "model_ema": None}, path)
    with pytest.raises(CheckpointError, match="has no place in it"):
        load_backbone("autoformer_tiny", checkpoint=path)
