"""Readers of the hybrids: DiffRate, PPT, LTMP, DTEM and GTP."""

from typing import Any

import author_units as knobs
import numpy as np
import torch
from runner import BLOCKS, PATCHES, Arrays, Case, Config, Outcome, Reader, close, images, tiny_vit
from torch import Tensor
from torch.nn import functional as F

from autotok.backbones.base import Backbone
from autotok.compression.model import CompressedViT
from autotok.config import CompressionConfig, Reduction
from autotok.methods.diffrate import DiffRate
from autotok.methods.dtem import soft_pairs
from autotok.methods.gtp import GTP
from autotok.methods.learning import Learning, LossContext
from autotok.methods.ltmp import LTMP
from autotok.tokens import AttentionRule

GRADIENT = 1e-4
"""Of a gradient's largest entry: entries near zero are sums of larger ones, whose order is the
processor's (three of 3,072 were up to 2.5e-7 off the authors' on an AMD EPYC)."""


def diffrate(config: Config, arrays: Arrays) -> Case:
    if config["mode"].startswith("train"):
        return diffrate_training(config, arrays)
    assert config["kept_counts"] == "include cls"
    reductions = knobs.from_diffrate(config["prune_kept"], config["merge_kept"], PATCHES)

    def compare(found: Outcome, arrays: Arrays) -> None:
        macs = diffrate_macs(found.model) + class_token_macs(found.model.backbone)
        close(macs, np.float64(config["flops_official"]), rtol=1e-6)
        resorted(found, arrays)

    return Case(CompressionConfig("diffrate", reductions), compare=compare)


def diffrate_macs(model: CompressedViT) -> Tensor:
    """The cost of the model's counts, by the term that training would see."""
    reducer = next(iter(model.reducers.values()))
    assert isinstance(reducer, DiffRate)
    kept = torch.tensor([[float(site.num_keep)] for site in model.schedule.sites])
    return reducer.macs(reducer.site.layers, kept)


def class_token_macs(backbone: Backbone) -> float:
    """The authors count the patch embedding for the class token too; ours does not."""
    facts = backbone.facts
    return facts.image_shape[0] * facts.patch_size[0] * facts.patch_size[1] * facts.blocks[0].width


def resorted(found: Outcome, arrays: Arrays) -> None:
    """Tokens as sets: the authors sort every layer, ours only where something goes."""
    size, source = found.tokens.sizes(), found.tokens.source
    assert source is not None
    held, official = by_source(source.numpy(), arrays["final_source"][:, 1:, 1:].astype(bool))
    for image, (own, theirs) in enumerate(zip(held, official, strict=True)):
        rows = found.tokens.patches[image][torch.from_numpy(own)]
        close(rows, arrays["last_tokens"][image, 1:][theirs], rtol=1e-5)
        close(size[image][torch.from_numpy(own)], arrays["final_size"][image, 1:][theirs])
    close(found.tokens.prefix, arrays["last_tokens"][:, :1], rtol=1e-5)


def by_source(mine: np.ndarray[Any, Any], theirs: np.ndarray[Any, Any]) -> tuple[Any, Any]:
    """Per image, orders in which both name the same groups of patches one after the other."""
    orders = [[np.lexsort(rows.T) for rows in both] for both in (mine, theirs)]
    for image, (a, b) in enumerate(zip(*orders, strict=True)):
        np.testing.assert_array_equal(mine[image][a], theirs[image][b])
    return orders[0], orders[1]


def diffrate_training(config: Config, arrays: Arrays) -> Case:
    """Every layer learns, but those the authors freeze by leaving them one candidate."""
    reductions, keep = [], PATCHES
    for layer in range(BLOCKS):
        candidates = arrays[f"extra.blocks.{layer}.prune_ddp.kept_token_candidate"]
        step = int(candidates[0] - candidates[1]) if len(candidates) > 1 else PATCHES + 1
        keep -= len(candidates) > 1  # counts are not used in training, but idle layers do nothing
        reductions.append(Reduction(layer, num_keep=keep, options={"granularity": step}))
    options = {
        "target_gmacs": float(config["target_gflops"]) - class_token_macs(tiny_vit()) / 1e9,
        "cost_weight": float(config["lambda_flops"]),
    }

    def compare(found: Outcome, arrays: Arrays) -> None:
        loss = task_loss(found, config)
        close(loss, np.float64(config["loss_value"]), rtol=1e-5)
        loss.backward()  # type: ignore[no-untyped-call]
        for key in (key for key in arrays if key.startswith("grad.")):
            _, _, layer, kind = key.split(".")
            reducer = found.model.reducers[layer]
            gradient = reducer.get_parameter(kind.replace("ddp", "logits")).grad
            expected = arrays[key]
            like(torch.zeros(len(expected)) if gradient is None else gradient, expected)
        emitted = found.model.emitted()
        prune, merge = np.array(config["kept_prune"]), np.array(config["kept_merge"])
        falling = np.minimum.accumulate(np.minimum(prune, merge)) - 1
        kept = dict(knobs.to_counts(emitted.reductions, PATCHES, num_blocks=BLOCKS))
        assert list(kept.values()) == falling.tolist()

    chosen = CompressionConfig("diffrate", tuple(reductions), options)
    return Case(chosen, training=True, counts=False, compare=compare)


def task_loss(found: Outcome, config: Config) -> Tensor:
    """Cross entropy and the method's own terms."""
    labels = torch.tensor(config["labels"])
    loss = F.cross_entropy(found.logits, labels) * config.get("cls_scale", 1.0)
    context = LossContext(found.tokens, found.logits, labels)
    for reducer in found.model.reducers.values():
        own = reducer.extra_loss(context) if isinstance(reducer, Learning) else None
        loss = loss if own is None else loss + own
    return loss


def ppt(config: Config, arrays: Arrays) -> Case:
    reductions = knobs.from_num_removed_at(config["r"], config["layers"], PATCHES)
    options = {  # no variance gets as far as 1000
        "threshold": min(1000.0, knobs.ppt_threshold(config["threshold"], PATCHES)),
        "proportional": bool(config["prop_attn"]),
    }

    def compare(found: Outcome, arrays: Arrays) -> None:
        assert found.tokens.source is not None
        close(found.tokens.x, arrays["last_tokens"], rtol=1e-5)
        close(found.tokens.sizes(), arrays["final_size"].reshape(len(images()), -1)[:, 1:])
        held = found.tokens.source.sum(dim=2)  # (images, n) patches per token
        pooled = np.asarray(arrays["pooled"]).astype(bool).any(axis=0)
        np.testing.assert_array_equal((held > 1).any(dim=1).numpy(), pooled)
        if config["prop_attn"]:
            close(held, found.tokens.sizes().numpy())

    return Case(CompressionConfig("ppt", reductions, options), compare=compare)


def ltmp(config: Config, arrays: Arrays) -> Case:
    assert config.get("prop_attn", True)
    merge, prune = (np.clip(config[f"{kind}_threshold"], 0.0, 1.0) for kind in ("merge", "prune"))
    reductions = knobs.from_thresholds(merge.tolist(), prune.tolist())
    options = {"tau": float(config["tau"])}
    if config["mode"] == "train":
        options |= {
            "target": float(config["reduction_target"]),
            "cost_weight": float(config["reg_scale"]),
        }
    chosen = CompressionConfig("ltmp", reductions, options)
    if config["mode"].startswith("inference"):

        def kept(found: Outcome, arrays: Arrays) -> None:
            expected = arrays["effective_tokens"][-1]
            np.testing.assert_array_equal(found.mlp[:, -1].numpy() + 1, expected)

        return Case(chosen, one_by_one=True, compare=kept)

    def compare(found: Outcome, arrays: Arrays) -> None:
        assert found.tokens.mask is not None
        mask = found.tokens.mask
        close(mask.sum(dim=1) + 1, arrays["effective_tokens"][-1], atol=1e-3)
        if "final_mask" in arrays:
            close(mask, arrays["final_mask"][:, 1:])
            close(found.tokens.sizes(), arrays["final_size"][:, 1:])
        if config["mode"] == "train":
            ltmp_gradients(found, config, arrays)

    def evaluate(model: CompressedViT) -> None:
        for reducer in model.reducers.values():
            reducer.rule = AttentionRule(diagonal=False, epsilon=0.0)

    prepare = None if config["mode"] == "train" else evaluate
    return Case(chosen, training=True, counts=False, prepare=prepare, compare=compare)


def ltmp_gradients(found: Outcome, config: Config, arrays: Arrays) -> None:
    """The loss, and what it asks of every threshold (prune ones are stored in thousandths)."""
    first = found.model.reducers["0"]
    assert isinstance(first, LTMP)
    rows = found.tokens.extras["ltmp.means"].values.mean(dim=0)
    ratio = first.cost_ratio([int(layer) for layer in rows[:, 1]], rows[:, 0])
    close(ratio, np.float64(config["flops_ratio"]))
    loss = task_loss(found, config)
    close(loss, np.float64(config["loss_value"]))
    loss.backward()  # type: ignore[no-untyped-call]
    for kind, unit in (("merge", 1.0), ("prune", 1000.0)):
        gradients = [
            reducer.get_parameter(f"{kind}_threshold").grad * unit
            for reducer in found.model.reducers.values()
        ]
        close(torch.stack(gradients), arrays[f"grad_{kind}_threshold"], rtol=1e-4, atol=1e-5)


def like(gradient: Tensor, expected: np.ndarray[Any, Any]) -> None:
    close(gradient, expected, rtol=GRADIENT, atol=GRADIENT * float(np.abs(expected).max()))


def dtem(config: Config, arrays: Arrays) -> Case:
    if config.get("kind") == "op-level":
        return Case(check=lambda arrays: selection(config, arrays))
    assert config["prop_attn"]
    merged = knobs.from_num_removed(config["r"], PATCHES, num_blocks=BLOCKS, at_most_half=True)
    counts = knobs.to_counts(merged, PATCHES, num_blocks=BLOCKS)
    reductions = tuple(Reduction(layer, num_keep=keep) for layer, keep in counts.items())
    options = {
        "features": config["feat_dim"],
        "partners": config["k2"],
        "pair_temperature": float(config["tau1"]),
        "choice_temperature": float(config["tau2"]),
    }
    chosen = CompressionConfig("dtem", reductions, options)
    training = config["mode"].startswith("train")

    def compare(found: Outcome, arrays: Arrays) -> None:
        size = arrays["final_size"].reshape(len(images()), -1)[:, 1:]
        close(found.tokens.sizes(), size, rtol=1e-4 if training else 1e-5)
        if not training:
            close(found.tokens.x, arrays["last_tokens"], rtol=1e-5)
            return
        close(found.tokens.prefix, arrays["last_tokens"][:, :1], rtol=1e-5)
        task_loss(found, config).backward()  # type: ignore[no-untyped-call]
        for key in (key for key in arrays if key.startswith("grad.")):
            layer = key.split(".")[2]
            gradient = found.model.reducers[layer].get_parameter("metric.weight").grad
            expected = arrays[key]
            like(torch.zeros(expected.shape) if gradient is None else gradient, expected)

    return Case(chosen, training=training, counts=not training, compare=compare)


def selection(config: Config, arrays: Arrays) -> None:
    """The soft choice of pairs alone."""
    got = soft_pairs(
        torch.from_numpy(arrays["scores"]),
        config["k"],
        partners=config["k2"],
        pair_temperature=config["tau1"],
        choice_temperature=config["tau2"],
    )
    close(got, arrays["assign"])


def gtp(config: Config, arrays: Arrays) -> Case:
    assert config["propagation"] == "GraphProp"
    reductions = knobs.from_num_removed(config["num_prop"], PATCHES, num_blocks=BLOCKS)
    options = {
        "selection": knobs.gtp_selection(config["selection"]),
        "graph": config["graph_type"].lower(),
        "num_neighbours": config["num_neighbours"],
        "alpha": float(config["alpha"]),
        "sparsity": float(config["sparsity"]),
        "proportional": bool(config["token_scale"]),
    }

    def compare(found: Outcome, arrays: Arrays) -> None:
        close(found.tokens.x, arrays["last_tokens"], rtol=1e-5)
        close(found.tokens.extras["gtp.graph"].values, arrays["graph_last"])
        if "token_scales_last" in arrays:
            close(found.tokens.sizes(), arrays["token_scales_last"][:, 1:])
        first = next(iter(found.model.reducers.values()))
        assert isinstance(first, GTP)
        tokens, taps = found.model.backbone.embed(images())
        joined = first.joined(first.before_blocks(tokens, taps))
        graph = joined.extras["gtp.graph"].values
        close(graph.expand(len(images()), -1, -1), arrays["graph0"])

    return Case(CompressionConfig("gtp", reductions, options), compare=compare)


READERS: dict[str, Reader] = {
    "diffrate": diffrate,
    "ppt": ppt,
    "ltmp": ltmp,
    "dtem": dtem,
    "gtp": gtp,
}
