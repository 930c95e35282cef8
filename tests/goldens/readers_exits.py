"""Readers of METR: classifiers on early class tokens."""

from typing import Any

import author_units as knobs
import numpy as np
import torch
from runner import BLOCKS, PATCHES, Arrays, Case, Config, Outcome, Reader, close
from torch import Tensor
from torch.nn import functional as F

from autotok.config import CompressionConfig, Reduction
from autotok.methods.author_units import from_fused_counts
from autotok.methods.learning import LossContext
from autotok.methods.metr import METR


def metr(config: Config, arrays: Arrays) -> Case:
    training = config["mode"].startswith("training")
    options = {
        "fuse": bool(config["fuse_token"]),
        "head_weight": float(config.get("mid_loss_weight", 0.15)),
        "distill_weight": float(config.get("mid_kd_weight", 0.15)),
        "temperature": float(config.get("mid_kd_tau", 1.0)),
    }
    reductions = heads_at(config["mid_head_layers"], reducing(config))
    return Case(
        CompressionConfig("metr", reductions, options),
        training=training,
        compare=(lambda found, arrays: learned(config, found, arrays)) if training else answers,
    )


def reducing(config: Config) -> dict[int, Reduction]:
    """By layer; lists of counts take `count_schedule`, where a repeated count acts."""
    fused, counts = bool(config["fuse_token"]), config.get("tokens_per_layer")
    if counts is None:
        ratios = {layer: config["keep_per_layer"][layer] for layer in config["layers"]}
        found = knobs.from_stage_ratios(ratios, PATCHES, fused=fused)
    elif fused:
        found = tuple(
            Reduction(r.layer, num_keep=r.num_keep, options={"count_schedule": True})
            for r in from_fused_counts(counts, PATCHES)
        )
    else:
        found = knobs.from_counts(dict(enumerate(counts)), PATCHES)
    return {reduction.layer: reduction for reduction in found}


def heads_at(layers: list[int], reducing: dict[int, Reduction]) -> tuple[Reduction, ...]:
    """The reductions with a head at `layers` only, which may be others than those that reduce."""
    found, entering = [], PATCHES
    for layer in range(BLOCKS):
        own = reducing.get(layer)
        silent = {} if layer in layers else {"head_weight": 0.0, "distill_weight": 0.0}
        if own is not None:
            entering = own.num_keep or entering
            found.append(Reduction(layer, num_keep=entering, options={**own.options, **silent}))
        elif layer in layers:
            found.append(Reduction(layer, num_keep=entering))
    return tuple(found)


def answers(found: Outcome, arrays: Arrays) -> None:
    """What every head says of the class token leaving its block."""
    layers = sorted({int(k.split(".")[2]) for k in arrays if k.startswith("extra.mid_heads.")})
    for got, layer in zip(arrays["mid_logits"], layers, strict=True):
        reducer = found.model.reducers[str(layer)]
        assert isinstance(reducer, METR)
        assert reducer.head is not None
        with torch.no_grad():
            close(reducer.head(found.block_cls[layer]), got)


def learned(config: Config, found: Outcome, arrays: Arrays) -> None:
    """Loss terms and gradients of one step."""
    answers(found, arrays)
    key = "targets" if "targets" in arrays else None
    goal = torch.from_numpy(arrays[key]) if key else torch.tensor(config["labels"])
    context = LossContext(found.tokens, found.logits, goal)
    heads = [found.model.reducers[str(layer)] for layer in config["mid_head_layers"]]
    terms = torch.stack([torch.stack(head.terms(context)) for head in heads])
    near(terms[:, 0].sum(), arrays["loss_mid"])
    near(terms[:, 1].sum(), arrays["loss_kd"])
    ce = F.cross_entropy(found.logits, goal)
    near(ce, arrays["loss_ce"])
    own = [reducer.extra_loss(context) for reducer in found.model.reducers.values()]
    loss = ce + torch.stack([term for term in own if term is not None]).sum()
    near(loss, arrays["loss"])
    same_gradients(loss, named(found.model), arrays, config["no_grad"])


def named(model: Any) -> dict[str, Tensor]:
    """Parameters by timm's names and the authors' names of the heads."""
    found = dict(model.backbone.weights.named_parameters())
    for layer, reducer in model.reducers.items():
        for name, parameter in reducer.head.named_parameters():
            found[f"mid_heads.{layer}.{name}"] = parameter
    return found


def same_gradients(
    loss: Tensor, parameters: dict[str, Tensor], arrays: Arrays, without: list[str]
) -> None:
    """Gradients and their norms, and none where the file says none."""
    grads = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    by_name = dict(zip(parameters, grads, strict=True))
    compared = 0
    for key in arrays:
        kind, _, name = key.partition(".")
        if kind in ("grad", "gradnorm"):
            grad = by_name[name]
            assert grad is not None, name
            near(grad if kind == "grad" else grad.norm(), arrays[key])
            compared += 1
    assert compared
    for name in without:
        grad = by_name.get(name)
        assert grad is None or not grad.any(), name


def near(got: Tensor, expected: Any) -> None:
    """Within 2e-5, of the value where that exceeds 1."""
    wanted = np.asarray(expected)
    np.testing.assert_array_less(
        np.abs(got.detach().numpy() - wanted), 2e-5 * np.maximum(1.0, np.abs(wanted)) + 1e-12
    )


READERS: dict[str, Reader] = {"metr": metr}
