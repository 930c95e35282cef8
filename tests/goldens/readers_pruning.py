"""Readers of the methods that learn what to keep: DynamicViT, TPS, SPViT, Cropr and ToFe."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import author_units as knobs
import numpy as np
import pytest
import torch
from runner import PATCHES, Arrays, Case, Config, Outcome, Reader, close, images, same_sets
from torch import Tensor, nn
from torch.nn import functional as F

from autotok.backbones.base import Backbone
from autotok.compression.model import CompressedViT
from autotok.config import CompressionConfig, Reduction, round_count
from autotok.methods import stochastic
from autotok.methods.losses import dynamicvit_ratio
from autotok.methods.tps import squeeze, squeeze_masked
from autotok.tokens import AttentionRule, Taps, Tokens


def likeliest(log_probs: Tensor) -> Tensor:
    """What replaces the random decision: the likelier column, as one-hot."""
    return F.one_hot(log_probs.argmax(dim=-1), log_probs.shape[-1]).to(log_probs.dtype)


@contextlib.contextmanager
def deciding(decide: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Replace the one source of random decisions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stochastic, "hard_gumbel", decide)
        yield


@contextlib.contextmanager
def recorded(masks: list[Tensor]) -> Iterator[None]:
    """Decisions of one forward, stage after stage: masks (images, n), 1 for kept."""
    left = iter(masks)

    def decide(log_probs: Tensor) -> Tensor:
        mask = next(left).to(log_probs.dtype)
        return torch.stack([mask, 1.0 - mask], dim=-1)

    with deciding(decide):
        yield


def every(arrays: Arrays, stem: str) -> list[Tensor]:
    """Arrays named stem0, stem1 ..."""
    names = [f"{stem}{number}" for number in range(64)]
    return [torch.from_numpy(np.asarray(arrays[name])) for name in names if name in arrays]


def stages(layers: list[int], ratios: list[float]) -> tuple[Reduction, ...]:
    """int(ratio * initial tokens) at each layer; every layer is listed, as each has parameters."""
    return tuple(
        Reduction(layer, num_keep=max(1, round_count(ratio, PATCHES, "floor")))
        for layer, ratio in zip(layers, ratios, strict=True)
    )


def noting(name: str, outputs: dict[int, Any]) -> Callable[[CompressedViT], None]:
    """Note in `outputs` what a part of each reducer gives, by stage; idle stages give nothing."""

    def note(stage: int) -> Callable[..., None]:
        return lambda module, given, result: outputs.__setitem__(stage, result)

    def prepare(model: CompressedViT) -> None:
        for stage, reducer in enumerate(model.reducers.values()):
            part: nn.Module = reducer.get_submodule(name)
            part.register_forward_hook(note(stage))

    return prepare


def same_rows(got: Tensor, expected: np.ndarray[Any, Any]) -> None:
    """What tokens (images, n, ...) got, in whatever order they stand after an idle stage."""
    close(got.sort(dim=1).values, np.sort(expected, axis=1))


def kept_patches(tokens: Tokens) -> Tensor:
    """(images, k): the patch each token is."""
    assert tokens.source is not None
    return tokens.source.int().argmax(dim=-1)


def traced(order: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """Indices into what entered each stage, as indices into what entered the first."""
    found = order[0]
    for following in order[1:]:
        found = np.take_along_axis(found, following, axis=1)
    return found


# --- DynamicViT


def dynamicvit(config: Config, arrays: Arrays) -> Case:
    assert config["count"].startswith("int(64*ratio)")
    reductions = stages(config["layers"], config["token_ratio_of_initial"])
    verdicts: dict[int, Tensor] = {}

    def predictions(arrays: Arrays) -> None:
        for stage, got in verdicts.items():
            same_rows(got, arrays[f"pred_logsoftmax.stage{stage}"])

    def kept(found: Outcome, arrays: Arrays) -> None:
        predictions(arrays)
        order = [indices.numpy() for indices in every(arrays, "idx.stage")]
        if order:
            same_sets(kept_patches(found.tokens), traced(order))

    def masks(found: Outcome, arrays: Arrays) -> None:
        predictions(arrays)
        live = [reducer.decision.sum(dim=1) for reducer in found.model.reducers.values()]
        for reducer, mask in zip(
            found.model.reducers.values(), every(arrays, "mask.stage"), strict=True
        ):
            close(reducer.decision, mask.numpy())
        for layer, count in zip(config["layers"], live, strict=True):
            np.testing.assert_array_equal(count.detach() + 1, arrays["tokens"][:, layer])

    training = config["mode"].startswith("train")
    return Case(
        CompressionConfig("dynamicvit", reductions),
        training=training,
        counts=not training,
        around=(lambda: deciding(likeliest)) if training else contextlib.nullcontext,
        prepare=noting("predictor", verdicts),
        compare=masks if training else kept,
    )


def dynamicvit_on_lvvit(config: Config, arrays: Arrays) -> Case:
    assert config["rule"].startswith("keep int(64*ratio) highest")
    reductions = stages(config["block_indices"], config["token_ratio"])
    return Case(CompressionConfig("dynamicvit", reductions), backbone=lvvit)


def lvvit() -> Backbone:
    """The LV-ViT that these files were made with."""
    from readers_clustering import lvvit as backbone

    return backbone()


# --- TPS


def tps(config: Config, arrays: Arrays) -> Case:
    if config.get("kind") == "op-level":
        return Case(check=squeezed)
    if config.get("mode", "").startswith("train"):
        return tps_training(config, arrays)
    temperature = float(config.get("temperature", 1.0))

    def last(found: Outcome, arrays: Arrays) -> None:
        close(found.tokens.x, arrays["last_tokens"], rtol=1e-5)

    if config["variant"] == "eTPS":
        assert config["keep_note"].startswith("ceil(")
        ratios = {int(layer): ratio for layer, ratio in config["keep"].items()}
        reductions = knobs.from_stage_ratios(ratios, PATCHES)
        options = {"temperature": temperature, "score": "cls"}
        return Case(CompressionConfig("etps", reductions, options), compare=last)
    verdicts: dict[int, Tensor] = {}

    def compare(found: Outcome, arrays: Arrays) -> None:
        last(found, arrays)
        for stage, got in verdicts.items():
            same_rows(got[..., 0], arrays[f"score_{stage}"])

    reductions = stages(config["layers"], config["keep_ratio_list"])
    chosen = CompressionConfig("dtps", reductions, {"temperature": temperature})
    return Case(chosen, prepare=noting("predictor", verdicts), compare=compare)


def tps_training(config: Config, arrays: Arrays) -> Case:
    ratios = config["keep_ratio_list"]
    verdicts: dict[int, Tensor] = {}

    def compare(found: Outcome, arrays: Arrays) -> None:
        for stage, got in verdicts.items():
            close(got, arrays[f"pred_logit_{stage}"])
        masks = [reducer.decision for reducer in found.model.reducers.values()]
        for got, expected in zip(masks, every(arrays, "hard_"), strict=True):
            close(got, expected.numpy())
        loss = sum(map(dynamicvit_ratio, masks, ratios)) / len(ratios)
        close(loss, np.float32(config["keep_ratio_loss_unweighted"]))

    return Case(
        CompressionConfig("dtps", stages(config["layers"], ratios)),
        training=True,
        counts=False,
        around=lambda: recorded(every(arrays, "hard_")),
        prepare=noting("predictor", verdicts),
        compare=compare,
    )


def squeezed(arrays: Arrays) -> None:
    """Both forms of the squeeze on one decision."""
    x = torch.from_numpy(arrays["x"])
    after, before = (torch.from_numpy(arrays[name]).squeeze(-1) for name in ("keep", "prev"))
    masked = squeeze_masked(x, before, after, 1.0)
    for image, keep in enumerate(after > 0.5):
        close(masked[image, keep], arrays["train_out"][image, keep.numpy()])
        alive = before[image] > 0.5
        tokens = Tokens(x[image : image + 1, alive], 0, (1, int(alive.sum())))
        scores = -torch.arange(tokens.num_patches).float() + 1e3 * after[image, alive]
        out = squeeze(tokens, scores.unsqueeze(0), int(keep.sum()), 1.0)
        close(out.x[0], arrays[f"eval_out_{image}"])


# --- SPViT


def spvit(config: Config, arrays: Arrays) -> Case:
    assert "not normalised" in config["package_token"]
    reductions = tuple(Reduction(layer) for layer in config["layers"])
    verdicts: dict[int, tuple[Tensor, Tensor]] = {}

    def compare(found: Outcome, arrays: Arrays) -> None:
        with torch.no_grad():  # all images at once: padding instead of removal
            close(found.model(images()), arrays["logits"])
            masked = spvit_masked(found.model)
        close(masked, arrays["logits"])
        for number, verdict in verdicts.items():
            close(verdict[0], arrays[f"pred_log.stage{number}"])
            close(verdict[1], arrays[f"pred_soft.stage{number}"])
        for number, reducer in enumerate(found.model.reducers.values()):
            close(reducer.decision, arrays[f"policy.stage{number}"][:, 1:])

    return Case(
        CompressionConfig("spvit", reductions),
        one_by_one=True,
        prepare=noting("selector", verdicts),
        compare=compare,
    )


def spvit_masked(model: CompressedViT) -> Tensor:
    """Logits of the training form without noise, with the exact softmax over what is left."""
    embed, exact = model.backbone.embed, AttentionRule(epsilon=0.0)

    def ruled(*args: Any, **kwargs: Any) -> tuple[Tokens, Taps]:
        tokens, taps = embed(*args, **kwargs)
        return Tokens(tokens.x, tokens.num_prefix, tokens.grid, rule=exact), taps

    with pytest.MonkeyPatch.context() as patch, deciding(likeliest):
        patch.setattr(model.backbone, "embed", ruled)
        logits: Tensor = model.train()(images())
    model.eval()
    return logits


# --- Cropr


def cropr(config: Config, arrays: Arrays) -> Case:
    kept = PATCHES - np.cumsum(config["pruned_per_module"])
    reductions = tuple(
        Reduction(layer, num_keep=int(kept[layer]))
        for layer, pruned in enumerate(config["pruned_per_module"])
        if pruned
    )
    options = {
        "llf": bool(config["llf"]),
        "num_queries": int(config["num_queries"]),
        "num_heads": int(config["num_heads"]),
        "q_proj": bool(config["q_proj"]),
        "k_proj": bool(config["k_proj"]),
        "pre_attn_norm": bool(config["pre_attn_norm"]),
    }

    def compare(found: Outcome, arrays: Arrays) -> None:
        if config["llf"]:
            assert found.tokens.raster
            return
        order = [
            arrays[f"order.module{layer}"][:, : count + 1]
            for layer, count in enumerate(kept)
            if f"order.module{layer}" in arrays  # where nothing goes there may be no module
        ]
        same_sets(kept_patches(found.tokens), traced(order)[:, 1:] - 1)

    return Case(CompressionConfig("cropr", reductions, options), compare=compare)


# --- ToFe


def tofe(config: Config, arrays: Arrays) -> Case:
    counts = config["budget_N_s"]
    instance = counts is None
    name = "tofe-instance" if instance else "tofe"
    reductions = tuple(
        Reduction(layer) if instance else Reduction(layer, num_keep=counts[stage])
        for stage, layer in enumerate(config["layers"])
    )
    logits: dict[int, Tensor] = {}

    def compare(found: Outcome, arrays: Arrays) -> None:
        expected = arrays["z"]
        masks = torch.from_numpy(arrays["mask"]).float()
        with torch.no_grad():
            close(found.model(images()), arrays["logits"])
            decisions = deciding(likeliest) if instance else recorded(list(masks))
            with decisions:
                masked = found.model.train()(images())
            found.model.eval()
        close(masked, arrays["logits"])
        by_stage = [logits[stage] for stage in range(len(logits))]
        close(torch.stack(by_stage).softmax(dim=-1), expected)

    return Case(
        CompressionConfig(name, reductions),
        one_by_one=instance,
        prepare=noting("selector", logits),
        compare=compare,
    )


READERS: dict[str, Reader] = {
    "dynamicvit": dynamicvit,
    "dynamicvit on lvvit (eval)": dynamicvit_on_lvvit,
    "tps": tps,
    "spvit": spvit,
    "cropr": cropr,
    "tofe": tofe,
}
