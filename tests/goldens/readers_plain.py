"""Readers of the methods that learn nothing and keep fixed counts in place."""

from typing import Any

import author_units as knobs
import numpy as np
import pytest
import torch
from runner import (
    BLOCKS,
    PATCHES,
    Arrays,
    Case,
    Config,
    Outcome,
    Reader,
    close,
    same_sets,
    with_options,
)

from autotok.compression.model import CompressedViT
from autotok.config import CompressionConfig, Reduction
from autotok.methods.matching import bipartite
from autotok.methods.merging import merge
from autotok.tokens import Tokens


def topk(config: Config, arrays: Arrays) -> Case:
    assert config["count"].startswith("int(")
    ratios = dict(zip(config["layers"], config["token_ratio_of_initial"], strict=True))
    reductions = knobs.from_cumulative_ratios(ratios, PATCHES, rounding="floor")
    return Case(CompressionConfig("topk", reductions), compare=inside)


def evit(config: Config, arrays: Arrays) -> Case:
    fused = bool(config["fuse_token"])
    ratios = {layer: config["keep_per_layer"][layer] for layer in config["layers"]}
    reductions = knobs.from_stage_ratios(ratios, PATCHES, fused=fused)
    return Case(CompressionConfig("evit", reductions, options={"fuse": fused}), compare=inside)


def tome(config: Config, arrays: Arrays) -> Case:
    if config.get("kind") == "op-level":
        return Case(check=matching)
    reductions = knobs.from_num_removed(config["r"], PATCHES, num_blocks=BLOCKS, at_most_half=True)
    options = {"proportional": bool(config["prop_attn"])}
    return Case(CompressionConfig("tome", reductions, options), compare=inside)


def tofu(config: Config, arrays: Arrays) -> Case:
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
    chosen = CompressionConfig("tofu", with_options(reductions, options), {"norm_rule": rule})
    return Case(chosen, compare=inside)


def pitome(config: Config, arrays: Arrays) -> Case:
    assert "without cls" in config["r_rule"]
    reductions = knobs.from_entering_ratios(dict(enumerate(config["ratio"])), PATCHES)
    options: list[dict[str, Any]] = [
        {"variant": "bsm" if bsm else "plain", "margin": min(1.0, margin / (1 - layer / BLOCKS))}
        for layer, (bsm, margin) in enumerate(
            zip(config["use_bsm_pitome"], config["margin"], strict=True)
        )
    ]
    shared = {"alpha": float(config["alpha"]), "proportional": config["prop_attn"] is True}

    def prepare(model: CompressedViT) -> None:
        for layer, reducer in model.reducers.items():
            margin = config["margin"][int(layer)]
            if reducer.values["margin"] == 1.0:  # one that does not fall with depth as ours do
                reducer.margin = margin
            assert reducer.margin == pytest.approx(margin)

    chosen = CompressionConfig("pitome", with_options(reductions, options), shared)
    return Case(chosen, prepare=prepare, compare=inside)


def ltp(config: Config, arrays: Arrays) -> Case:
    reduction = Reduction(0, keep_ratio=config["keep"])
    return Case(CompressionConfig("ltp", (reduction,), {"alpha": config["alpha"]}), compare=inside)


READERS: dict[str, Reader] = {
    "topk": topk,
    "evit": evit,
    "tome": tome,
    "tofu": tofu,
    "pitome": pitome,
    "ltpvit": ltp,
}


def inside(found: Outcome, arrays: Arrays) -> None:
    """The intermediates that a file may hold beyond its logits."""
    tokens = found.tokens
    assert tokens.source is not None
    if "last_tokens" in arrays:
        close(tokens.x, arrays["last_tokens"], rtol=1e-5)
    if "final_size" in arrays:
        close(tokens.sizes(), arrays["final_size"].squeeze()[:, 1:])
    if "final_source" in arrays:
        held = tokens.source.numpy()
        np.testing.assert_array_equal(held, arrays["final_source"][:, 1:, 1:].astype(bool))
    if "idx" in arrays:
        same_sets(tokens.source.int().argmax(dim=-1), arrays["idx"])


def matching(arrays: Arrays) -> None:
    """Calls of the authors' matching, token by token."""
    cases = sorted({key.rsplit(".", 1)[0] for key in arrays if key.endswith(".out")})
    assert cases
    for case in cases:
        compare_matching(arrays, case)


def compare_matching(arrays: Arrays, case: str) -> None:
    """`T<count>.cls<0|1>dist<0|1>.r<removed>`: one call of bipartite_soft_matching, merged."""
    head, flags, removed = case.split(".")
    prefix = int(flags[3]) + int(flags[8])
    assert flags == f"cls{flags[3]}dist{flags[8]}"
    metric, x, size = (torch.from_numpy(arrays[f"{head}.{key}"]) for key in ("metric", "x", "size"))
    count = x.shape[1] - prefix
    r = min(int(removed[1:]), count // 2)
    eye = torch.eye(count, dtype=torch.bool).expand(x.shape[0], -1, -1)
    tokens = Tokens(x, prefix, (1, count), size=size[:, prefix:, 0], source=eye)
    out = tokens
    if r:
        match = bipartite(metric[:, prefix:], r, num_prefix=prefix)
        out = merge(tokens, keep=match.keep, gone=match.gone, target=match.target)
    close(out.x, arrays[f"{case}.out"])
    close(out.sizes(), arrays[f"{case}.size"][:, prefix:, 0])
    assert out.source is not None
    held = arrays[f"{case}.source"][:, prefix:, prefix:].astype(bool)
    np.testing.assert_array_equal(out.source.numpy(), held)
