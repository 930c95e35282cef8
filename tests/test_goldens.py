"""Outputs of the authors' own code, or of a paper's equations where a file says so, reproduced.

One npz per configuration in tests/golden, and in the folder that AUTOTOK_GOLDEN_DIR names:
`logits`, `tokens` entering each block (prefix included) and `config`, the authors' knobs as JSON.
Everything is read from `config`; the file's name gives the method only. Files of unregistered
methods are skipped at collection; one of a registered method that cannot be interpreted fails.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from autotok.backbones.timm_vit import TimmViT, VisionTransformer
from autotok.compression.compress import compress_backbone
from autotok.compression.model import CompressedViT
from autotok.config import CompressionConfig, Reduction
from autotok.methods import knobs, list_methods
from autotok.methods.matching import bipartite
from autotok.methods.primitives import merge
from autotok.tokens import Needs, Taps, Tokens

GOLDEN = Path(__file__).with_name("golden")
ATOL = 2e-5
BLOCKS, PATCHES = 6, 64
Config = dict[str, Any]


def folders() -> list[Path]:
    extra = os.environ.get("AUTOTOK_GOLDEN_DIR")
    return [GOLDEN, Path(extra)] if extra else [GOLDEN]


def collect(op_level: bool) -> list[Any]:
    found = [
        pytest.param(path, id=f"{path.stem}{'' if folder == GOLDEN else '-extra'}")
        for folder in folders()
        for path in sorted(folder.glob("*_*.npz"))
        if path.name.split("_")[0] in list_methods()
    ]
    return [p for p in found if ("_op_" in p.values[0].name) == op_level]  # type: ignore[union-attr]


# --- the authors' knobs, as configurations


def topk(config: Config) -> CompressionConfig:
    assert config["count"].startswith("int(")
    ratios = dict(zip(config["layers"], config["token_ratio_of_initial"], strict=True))
    reductions = knobs.from_cumulative_ratios(ratios, PATCHES, rounding="floor")
    return CompressionConfig("topk", reductions)


def evit(config: Config) -> CompressionConfig:
    fused = bool(config["fuse_token"])
    ratios = {layer: config["keep_per_layer"][layer] for layer in config["layers"]}
    reductions = knobs.from_stage_ratios(ratios, PATCHES, fused=fused)
    return CompressionConfig("evit", reductions, options={"fuse": fused})


def tome(config: Config) -> CompressionConfig:
    reductions = knobs.from_num_removed(config["r"], PATCHES, num_blocks=BLOCKS, at_most_half=True)
    return CompressionConfig("tome", reductions, {"proportional": bool(config["prop_attn"])})


def tofu(config: Config) -> CompressionConfig:
    if "r" in config:
        reductions = knobs.from_num_removed(
            config["r"], PATCHES, num_blocks=BLOCKS, at_most_half=True
        )
    else:
        assert "T includes cls" in config["r_rule"]
        ratios = dict(enumerate(config["ratio"]))
        reductions = knobs.from_entering_ratios(ratios, PATCHES, num_counted_prefix=1)
    modes = {"tofu": "mlerp", "mlerp": "mlerp", "prune": "prune", "avg": "avg"}
    rule = "third_party" if "dst_before" in config["norm_rule"] else "paper"
    options = [{"mode": modes[word]} for word in config["strategy"]]
    return CompressionConfig("tofu", with_options(reductions, options), {"norm_rule": rule})


def pitome(config: Config) -> CompressionConfig:
    assert "without cls" in config["r_rule"]
    reductions = knobs.from_entering_ratios(dict(enumerate(config["ratio"])), PATCHES)
    options: list[dict[str, Any]] = [
        {"variant": "bsm" if bsm else "plain", "margin": margin / (1 - layer / BLOCKS)}
        for layer, (bsm, margin) in enumerate(
            zip(config["use_bsm_pitome"], config["margin"], strict=True)
        )
    ]
    shared = {"alpha": float(config["alpha"]), "proportional": bool(config["prop_attn"])}
    return CompressionConfig("pitome", with_options(reductions, options), shared)


def ltp(config: Config) -> CompressionConfig:
    reduction = Reduction(0, keep_ratio=config["keep"])
    return CompressionConfig("ltp", (reduction,), {"alpha": config["alpha"]})


def with_options(
    reductions: tuple[Reduction, ...], options: list[dict[str, Any]]
) -> tuple[Reduction, ...]:
    return tuple(
        Reduction(r.layer, num_keep=r.num_keep, options=options[r.layer]) for r in reductions
    )


READERS: dict[str, Callable[[Config], CompressionConfig]] = {
    "topk": topk,
    "evit": evit,
    "tome": tome,
    "tofu": tofu,
    "pitome": pitome,
    "ltp": ltp,
}


# --- running them


class Recorder(TimmViT):
    """Notes the class token that enters each block."""

    def attend(self, index: int, tokens: Tokens, needs: Needs = Needs.NONE) -> tuple[Tensor, Taps]:
        self.entering = [*getattr(self, "entering", [])[:index], tokens.x[:, 0]]
        return super().attend(index, tokens, needs)


@pytest.fixture(scope="module")
def backbone() -> TimmViT:
    model = VisionTransformer(
        img_size=64, patch_size=8, num_classes=10, embed_dim=96, depth=BLOCKS, num_heads=3
    ).eval()
    with np.load(GOLDEN / "tinyvit.npz") as arrays:
        model.load_state_dict({key: torch.from_numpy(arrays[key]) for key in arrays.files})
    return Recorder(model, name="golden")


def images() -> Tensor:
    with np.load(GOLDEN / "inputs.npz") as arrays:
        return torch.from_numpy(arrays["x"])


def close(got: Tensor, expected: np.ndarray[Any, Any], *, rtol: float = 0.0) -> None:
    np.testing.assert_allclose(got.numpy(), expected, rtol=rtol, atol=ATOL)


def per_block(counts: tuple[int, ...], arrays: Any, key: str) -> None:
    """Counts of patch tokens per block, one class token more; (6,) or (images, 6)."""
    expected = np.asarray(arrays[key])
    np.testing.assert_array_equal(
        np.broadcast_to([c + 1 for c in counts], expected.shape), expected
    )


@torch.no_grad()
def test_the_uncompressed_model_reproduces_its_logits(backbone: TimmViT) -> None:
    with np.load(GOLDEN / "inputs.npz") as arrays:
        close(compress_backbone(backbone, CompressionConfig())(images()), arrays["logits"])


@pytest.mark.parametrize("path", collect(op_level=False))
@torch.no_grad()
def test_the_authors_outputs_are_reproduced(path: Path, backbone: TimmViT) -> None:
    with np.load(path) as arrays:
        config = READERS[path.name.split("_")[0]](json.loads(str(arrays["config"])))
        model = compress_backbone(backbone, config)
        per_block(model.schedule.attention, arrays, "tokens")
        if "mlp_tokens" in arrays:
            per_block(model.schedule.mlp, arrays, "mlp_tokens")
        close(model(images()), arrays["logits"])
        compare_inside(model, arrays)


def compare_inside(model: CompressedViT, arrays: Any) -> None:
    """The intermediates that a file may hold beyond its logits."""
    tokens = model.forward_tokens(images(), trace=True)
    assert tokens.source is not None
    if "block_cls" in arrays:
        recorded = model.backbone.entering[1:]  # type: ignore[operator,index]
        close(torch.stack([*recorded, tokens.x[:, 0]]), arrays["block_cls"], rtol=1e-5)
    if "last_tokens" in arrays:
        close(tokens.x, arrays["last_tokens"], rtol=1e-5)
    if "final_size" in arrays:
        close(tokens.sizes(), arrays["final_size"].squeeze()[:, 1:])
    if "final_source" in arrays:
        held = tokens.source.numpy()
        np.testing.assert_array_equal(held, arrays["final_source"][:, 1:, 1:].astype(bool))
    if "idx" in arrays:
        kept = tokens.source.int().argmax(dim=-1).sort(dim=1).values
        np.testing.assert_array_equal(kept.numpy(), np.sort(arrays["idx"], axis=1))


@pytest.mark.parametrize("path", collect(op_level=True))
def test_the_authors_matching_is_reproduced_token_by_token(path: Path) -> None:
    with np.load(path) as arrays:
        cases = sorted({key.rsplit(".", 1)[0] for key in arrays.files if key.endswith(".out")})
        assert cases
        for case in cases:
            compare_matching(arrays, case)


def compare_matching(arrays: Any, case: str) -> None:
    """`T<count>.cls<0|1>dist<0|1>.r<removed>`: one call of bipartite_soft_matching, merged."""
    head, flags, removed = case.split(".")
    prefix = int(flags[3]) + int(flags[8])
    assert flags == f"cls{flags[3]}dist{flags[8]}"
    metric, x, size = (torch.from_numpy(arrays[f"{head}.{key}"]) for key in ("metric", "x", "size"))
    count = x.shape[1] - prefix
    r = min(int(removed[1:]), count // 2)
    eye = torch.eye(count, dtype=torch.bool).expand(x.shape[0], -1, -1)
    tokens = Tokens(x, prefix, (1, count), size=size[:, prefix:, 0], source=eye)
    match = bipartite(metric[:, prefix:], r, num_prefix=prefix)
    out = merge(tokens, keep=match.keep, gone=match.gone, target=match.target)
    close(out.x, arrays[f"{case}.out"])
    close(out.sizes(), arrays[f"{case}.size"][:, prefix:, 0])
    assert out.source is not None
    held = arrays[f"{case}.source"][:, prefix:, prefix:].astype(bool)
    np.testing.assert_array_equal(out.source.numpy(), held)
