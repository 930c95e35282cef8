"""Readers of the methods that keep as many as the image needs, park for a while, or look first."""

import re
from typing import Any

import numpy as np
import torch
from runner import (
    PATCHES,
    Arrays,
    Case,
    Config,
    Outcome,
    Reader,
    close,
    images,
    per_block,
    same_sets,
    tiny_vit,
)
from torch import Tensor, nn

from autotok.compression.compress import compress_backbone
from autotok.compression.model import CompressedViT
from autotok.compression.tap_request import TapRequest
from autotok.config import CompressionConfig, Reduction, round_count


def floors(layers: list[int], ratios: list[float]) -> tuple[Reduction, ...]:
    """int(ratio * initial tokens) at each layer."""
    return tuple(
        Reduction(layer, num_keep=max(1, round_count(ratio, PATCHES, "floor")))
        for layer, ratio in zip(layers, ratios, strict=True)
    )


# --- ATS


def sampled(layers: list[int], points: list[int]) -> tuple[Reduction, ...]:
    """As many points at each layer, whatever the layers before could keep."""
    most = np.minimum.accumulate(np.minimum(points, PATCHES))
    return tuple(
        Reduction(layer, num_keep=int(keep), options={"points": number})
        for layer, keep, number in zip(layers, most, points, strict=True)
    )


def ats(config: Config, arrays: Arrays) -> Case:
    assert "K-1 sampling points" in config["K_meaning"]
    reductions = sampled(config["layers"], [budget - 1 for budget in config["K_per_block"]])
    return Case(CompressionConfig("ats", reductions), one_by_one=True, compare=also_in_a_batch)


def also_in_a_batch(found: Outcome, arrays: Arrays) -> None:
    """Batched by four, the batch is the images one by one (the authors' is not, but for one layer
    alone), and so it is where every image takes as many rows as there may be."""
    given = found.model.config.reductions
    with torch.no_grad():
        close(found.model(images()), arrays["logits"])
        if any(one.num_keep != one.options["points"] for one in given):
            return
        fixed = tuple(Reduction(one.layer, num_keep=one.num_keep) for one in given)
        padded = compress_backbone(tiny_vit(), CompressionConfig("ats", fixed, {"rows": "fixed"}))
        close(padded(images()), arrays["logits"])
        if len(given) == 1 and "logits_batched4_drop" in arrays:
            close(padded(images()), arrays["logits_batched4_drop"])


def ats_tokenreduction(config: Config, arrays: Arrays) -> Case:
    reductions = sampled(config["layers"], [number - 1 for number in config["sample_count"]])
    return Case(CompressionConfig("ats", reductions, {"sampler": "raster"}), one_by_one=True)


# --- AS-ViT

ACCUMULATE = {"last": "last", "accu": "sum", "run": "sum", "sum": "sum", "ema": "ema"}
"""How scores of blocks are joined, by how the word in a file begins."""


def asvit(config: Config, arrays: Arrays) -> Case:
    thresholds = dict(zip(config["layers"], config["thresholds"], strict=True))
    word = str(config["accumulate"]).lower()
    (how,) = {ours for theirs, ours in ACCUMULATE.items() if word.startswith(theirs)}
    options: dict[str, Any] = {"accumulate": how}
    if config["mode"].startswith("batch:"):
        return Case(batch_counts(thresholds, options))
    assert config["mode"].startswith("batch 1")
    reductions = tuple(
        Reduction(layer, options={"threshold": value}) for layer, value in thresholds.items()
    )
    return Case(CompressionConfig("asvit", reductions, options), one_by_one=True)


@torch.no_grad()
def batch_counts(thresholds: dict[int, float], options: dict[str, Any]) -> CompressionConfig:
    """The batch's mean counts, stage by stage, as fixed counts."""
    reductions: tuple[Reduction, ...] = ()
    entering = PATCHES
    for layer, threshold in thresholds.items():
        idle = (*reductions, Reduction(layer, num_keep=entering))
        model = compress_backbone(tiny_vit(), CompressionConfig("asvit_batch", idle, options))
        watch = TapRequest(after=frozenset({layer - 1}))
        model.forward_tokens(images(), watch=watch)
        score = watch.tokens[layer - 1].extras["asvit.score"].values
        entering = int((score > threshold).sum()) // len(score)
        reductions = (*reductions, Reduction(layer, num_keep=entering))
    return CompressionConfig("asvit_batch", reductions, options)


# --- IdleViT


def idlevit(config: Config, arrays: Arrays) -> Case:
    assert config["count"].startswith("int(64*keep)")
    reductions = floors(config["idle_layers"], config["keep_ratio_of_initial"])
    return Case(CompressionConfig("idlevit", reductions), compare=last_tokens)


def last_tokens(found: Outcome, arrays: Arrays) -> None:
    if "final_tokens" in arrays:
        close(found.tokens.x, arrays["final_tokens"], rtol=1e-5)


# --- Evo-ViT


def evovit(config: Config, arrays: Arrays) -> Case:
    ratios, tradeoffs = config["prune_ratio_per_layer"], config["tradeoff"]
    layers = [layer for layer, ratio in enumerate(ratios) if ratio < 1]
    if config["stage_wise"]:  # where nothing waits for a while, a stage of everybody starts
        ends = [layer for layer in layers if ratios[layer] < 1 <= [*ratios, 0][layer + 1]]
        layers = sorted({*starts(config["edits"]), *(layer + 1 for layer in ends)})
    mixed = [value for value in tradeoffs if value != 1] or [1.0]
    first = tradeoffs.index(mixed[0]) if mixed[0] in tradeoffs else len(tradeoffs)
    assert tradeoffs == [1] * first + mixed[:1] * (len(tradeoffs) - first)
    options: dict[str, Any] = {
        "tradeoff": float(mixed[0]),
        "tradeoff_from": first,
        "restore": not config["prunecls"],
    }
    reductions = floors(layers, [ratios[layer] for layer in layers])
    chosen = CompressionConfig("evovit", reductions, {**options, "readout": "mean"})
    plain = CompressionConfig("evovit", reductions, {**options, "readout": "model"})

    def by_class(found: Outcome, arrays: Arrays) -> None:
        if "logits_cls" in arrays:
            with torch.no_grad():
                close(compress_backbone(tiny_vit(), plain)(images()), arrays["logits_cls"])

    return Case(chosen, compare=by_class)


def starts(edits: str) -> list[int]:
    """'... stage starts at blocks 2 and 4, stage ends at ...' to 2 and 4."""
    found = re.search(r"stage starts? at blocks? ([\d, and]*)", edits)
    assert found is not None
    return [int(word) for word in re.findall(r"\d+", found.group(1))]


# --- A-ViT


def avit(config: Config, arrays: Arrays) -> Case:
    options = {
        "scale": float(config["gate_scale"]),
        "threshold": float(config["gate_center"]),
        "epsilon": float(config["eps"]),
    }
    chosen = CompressionConfig("avit", (Reduction(0),), options)
    return Case(chosen, one_by_one=True, counts=False, compare=while_the_class_token_runs)


def while_the_class_token_runs(found: Outcome, arrays: Arrays) -> None:
    """Counts agree as long as the class token, which alone is read, has not halted."""
    running = arrays["active"][:, :, 0].T.astype(bool)  # (images, blocks)
    expected = np.where(running, arrays["tokens"], found.tokens.num_prefix)
    per_block(found.attention, expected, found.tokens.num_prefix)
    if "output_before_norm" in arrays:
        close(found.tokens.x[0, 0], arrays["output_before_norm"][-1, 0], rtol=1e-5)


# --- PaPr


class Given(nn.Module):
    """The feature maps of a file, in place of a network's."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = features

    def forward(self, x: Tensor) -> Tensor:
        return self.features


def papr(config: Config, arrays: Arrays) -> Case:
    assert config["count"].startswith("int(z*N) patches with N INCLUDING cls")
    keep = round_count(config["z"], PATCHES + 1, "floor")
    given = Given(torch.from_numpy(np.asarray(arrays["extra.feat"])))

    def prepare(model: CompressedViT) -> None:
        for reducer in model.reducers.values():
            reducer.network = given

    chosen = CompressionConfig("papr", (Reduction(0, num_keep=min(keep, PATCHES)),))
    return Case(chosen, prepare=prepare, compare=kept_set)


def kept_set(found: Outcome, arrays: Arrays) -> None:
    if "idx" in arrays:
        assert found.tokens.source is not None
        same_sets(found.tokens.source.int().argmax(dim=-1), arrays["idx"])


READERS: dict[str, Reader] = {
    "ats": ats,
    "ats_tokenreduction": ats_tokenreduction,
    "asvit": asvit,
    "idlevit": idlevit,
    "evovit": evovit,
    "avit": avit,
    "papr": papr,
}
