"""Readers of the methods that cluster or pool tokens before a block, and of LV-ViT."""

from functools import cache
from typing import Any

import numpy as np
import torch
from runner import GOLDEN, Arrays, Case, Config, Outcome, Reader, opened

from autotok.backbones.lvvit import LVViT, LVViTSpec, lvvit_from_state_dict
from autotok.config import CompressionConfig, Reduction


def kmedoids(config: Config, arrays: Arrays) -> Case:
    starts = config["farthest_point_start"]
    options = {
        "mode": "reference",
        "weighted": bool(config["weighted"]),
        "iterations": int(config["iterations"]),
    }
    each = [{"first": int(start)} for start in starts] or None
    return case("kmedoids", config, options, each)


def dpcknn(config: Config, arrays: Arrays) -> Case:
    options = {"neighbours": int(config["k_neighbors"]), "weighted": bool(config["weighted"])}
    return case("dpcknn", config, options)


def sit(config: Config, arrays: Arrays) -> Case:
    assert config["hidden_ratio"] == 0.5
    return case("sit", config, {})


def sinkhorn(config: Config, arrays: Arrays) -> Case:
    options = {"epsilon": float(config["eps"]), "iterations": int(config["iterations"])}
    return case("sinkhorn", config, options)


def patchmerger(config: Config, arrays: Arrays) -> Case:
    return case("patchmerger", config, {"scaled": bool(config["scaled_attention"])})


READERS: dict[str, Reader] = {
    "kmedoids": kmedoids,
    "dpcknn": dpcknn,
    "sit": sit,
    "sinkhorn": sinkhorn,
    "patchmerger": patchmerger,
}


def case(
    method: str,
    config: Config,
    options: dict[str, Any],
    each: list[dict[str, Any]] | None = None,
) -> Case:
    """Counts per block as the file lists them; `each` adds options per reduction layer."""
    assert config["acts"].startswith("before the block")
    assert config["pool"].startswith("cls")
    extra = each or [{}] * len(config["block_indices"])
    places = zip(config["block_indices"], config["cluster_counts"], extra, strict=True)
    reductions = tuple(
        Reduction(layer, num_keep=count, options=own) for layer, count, own in places
    )
    return Case(CompressionConfig(method, reductions, options), compare=inside)


def inside(found: Outcome, arrays: Arrays) -> None:
    """Which of the image's patches each of the final tokens stands for."""
    assert found.tokens.source is not None
    source = found.tokens.source
    stages = sum(key.startswith("centers.") for key in arrays)
    if f"idx_token.{stages - 1}" in arrays:
        token_of_patch = source.to(torch.int64).argmax(dim=1).numpy()
        np.testing.assert_array_equal(token_of_patch, arrays[f"idx_token.{stages - 1}"])
    elif f"centers.{stages - 1}" in arrays:
        patches = arrays["centers.0"]
        for stage in range(1, stages):
            patches = np.take_along_axis(patches, arrays[f"centers.{stage}"], axis=1)
        np.testing.assert_array_equal(source.to(torch.int64).argmax(dim=2).numpy(), patches)


# --- LV-ViT


@cache
def lvvit() -> LVViT:
    """The LV-ViT that `lvvit_*.npz` files were made with."""
    with opened(GOLDEN / "lvvit_tiny.npz") as (config, arrays):
        weights = {
            key.removeprefix("sd."): torch.from_numpy(np.asarray(arrays[key]))
            for key in arrays
            if key.startswith("sd.")
        }
    return lvvit_from_state_dict(weights, lvvit_spec(config["model_args"]), name="lvvit_golden")


def lvvit_spec(given: Config) -> LVViTSpec:
    """Shapes from the authors' constructor arguments."""
    assert given["p_emb"] == "4_2"
    return LVViTSpec(
        width=given["embed_dim"],
        depth=given["depth"],
        heads=given["num_heads"],
        hidden=int(given["embed_dim"] * given["mlp_ratio"]),
        image_shape=(given["in_chans"], given["img_size"], given["img_size"]),
        patch_size=given["patch_size"],
        num_classes=given["num_classes"],
        skip=given["skip_lam"],
    )
