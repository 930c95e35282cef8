"""Readers of METR, LGViT and plain early exits: heads on tokens that leave a block."""

from typing import Any

import author_units as knobs
import numpy as np
import torch
from runner import (
    BLOCKS,
    GOLDEN,
    PATCHES,
    Arrays,
    Case,
    Config,
    Outcome,
    Reader,
    close,
    images,
)
from torch import Tensor
from torch.nn import functional as F

from autotok.backbones.timm_vit import TimmViT, VisionTransformer, VisionTransformerDistilled
from autotok.compression.compress import compress_backbone
from autotok.compression.exit_rules import entropy
from autotok.compression.exit_scores import score_exits
from autotok.compression.model import CompressedViT
from autotok.compression.tap_request import TapRequest
from autotok.config import CompressionConfig, Reduction
from autotok.counting.exit_costs import measured_exit_macs, scheduled_exit_macs
from autotok.exits import ExitPolicy
from autotok.methods.learning import LossContext
from autotok.methods.metr import METR
from autotok.methods.primitives import confidence
from autotok.tokens import Tokens
from autotok.training.exit_losses import (
    hetero_terms,
    homo_terms,
    stage_one,
    stage_two,
)
from autotok.training.losses import deit_soft


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
            for r in knobs.from_fused_counts(counts, PATCHES)
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


# --- LGViT and plain early exits: files of their own form

KINDS = {
    "conv1_1": "local-dw",
    "conv2_1": "local",
    "attention_r2": "global-2",
    "attention_r3": "global-3",
    "linear": "linear",
    "vit": "vit",
}
CRITERIA = ("confidence", "entropy", "patience")


def early(config: Config, arrays: Arrays) -> Case:
    if config["mode"].startswith("inference"):
        return Case(early_config(config, "none"), check=lambda arrays: stopping(config, arrays))
    step = stage_two_step if "stage 2" in config["mode"] else stage_one_step
    return Case(early_config(config, "none"), check=lambda arrays: step(config, arrays))


def early_config(config: Config, criterion: str) -> CompressionConfig:
    kinds = tuple(KINDS[word] for word in config["exit_heads"])
    given = config.get("thresholds", {})
    policy = ExitPolicy(tuple(config["exit_blocks"]), kinds)
    if criterion == "patience":
        policy = ExitPolicy(policy.layers, kinds, criterion, patience=int(given[criterion]))
    elif criterion in given:
        policy = ExitPolicy(
            policy.layers, kinds, criterion, tuple(map(float, np.atleast_1d(given[criterion])))
        )
    return CompressionConfig(exits=policy)


def deep_vit(config: Config, arrays: Arrays) -> TimmViT:
    """The tiny ViT with its blocks repeated, or its distilled sibling."""
    with np.load(GOLDEN / "tinyvit.npz") as held:
        base = {key: torch.from_numpy(held[key]) for key in held.files}
    depth, distilled = int(config["depth"]), "dist" in config["prefix"]
    state = {key: value for key, value in base.items() if not key.startswith("blocks.")}
    for layer in range(depth):
        stem = f"blocks.{layer % BLOCKS}."
        for key, value in base.items():
            if key.startswith(stem):
                state[f"blocks.{layer}.{key.removeprefix(stem)}"] = value
    kind = VisionTransformerDistilled if distilled else VisionTransformer
    if distilled:
        for name in ("dist_token", "pos_embed", "head_dist.weight", "head_dist.bias"):
            state[name] = torch.from_numpy(arrays[f"extra.{name}"])
    model = kind(
        img_size=64, patch_size=8, num_classes=10, embed_dim=96, depth=depth, num_heads=3
    ).eval()
    model.load_state_dict(state)
    return TimmViT(model, name="golden")


def with_heads(config: Config, arrays: Arrays, criterion: str = "confidence") -> CompressedViT:
    made = compress_backbone(deep_vit(config, arrays), early_config(config, criterion)).eval()
    assert made.exits is not None
    for number, head in enumerate(made.exits.heads):
        stem = f"extra.highway.{number}."
        own = {k.removeprefix(stem): arrays[k] for k in arrays if k.startswith(stem)}
        state = {key: torch.from_numpy(np.asarray(value)) for key, value in own.items()}
        missing, unexpected = head.load_state_dict(state, strict=False)
        assert not unexpected
        assert all(name.endswith("num_batches_tracked") for name in missing), missing
    return made


@torch.no_grad()
def stopping(config: Config, arrays: Arrays) -> None:
    """Inference: every head's answer, who stops where, and what it costs."""
    made = with_heads(config, arrays)
    assert made.exits is not None
    scores = score_exits(made, images())
    near(scores.logits, arrays["exit_logits"])
    near(scores.final, arrays["final_logits"])
    near(confidence(scores.logits), arrays["confidence"])
    near(entropy(scores.logits), arrays["entropy"])
    for number, layer in enumerate(made.exits.policy.layers):
        _, features = made.exits.read(number, scores.watch.tokens[layer])
        near(features.mean(dim=1), arrays["exit_features_mean"][number])
    costs, _ = measured_exit_macs(made, scores)
    said = config["macs"]
    np.testing.assert_array_equal(costs, [[*said["at_exit"], said["final"]]] * len(images()))
    facts = made.backbone.facts
    np.testing.assert_array_equal(costs[0], scheduled_exit_macs(facts, made.config))
    for criterion in CRITERIA:
        rule = with_heads(config, arrays, criterion)
        number, answers = scores.chosen(rule)
        np.testing.assert_array_equal(number, arrays[f"exit_index.{criterion}"])
        near(answers, arrays[f"logits.{criterion}"])
        near(rule(images()), arrays[f"logits.{criterion}"])
        run = [([*config["exit_blocks"], config["depth"] - 1][n]) + 1 for n in number.tolist()]
        np.testing.assert_array_equal(run, arrays[f"blocks_run.{criterion}"])


def read_all(made: CompressedViT) -> tuple[list[Tensor], list[Tensor], Tokens]:
    """Logits and features of all heads, and the tokens at the read-out."""
    assert made.exits is not None
    layers = made.exits.policy.layers
    watch = TapRequest(after=frozenset(layers))
    tokens = made.forward_tokens(images(), watch=watch)
    found = [made.exits.read(number, watch.tokens[at]) for number, at in enumerate(layers)]
    return [logits for logits, _ in found], [features for _, features in found], tokens


def stage_one_step(config: Config, arrays: Arrays) -> None:
    made = with_heads(config, arrays).train()
    assert made.exits is not None
    logits, _, tokens = read_all(made)
    final, labels = made.backbone.readout(tokens), torch.tensor(config["labels"])
    near(torch.stack(logits), arrays["exit_logits"])
    near(final, arrays["final_logits"])
    each = torch.stack([F.cross_entropy(own, labels) for own in (*logits, final)])
    near(each, arrays["losses"])

    def loss(step: int) -> Tensor:
        return stage_one(
            f"exits_{config['train_strategy']}",
            logits,
            final,
            labels,
            layers=config["exit_blocks"],
            num_blocks=config["depth"],
            step=step,
        )

    near(loss(1), arrays["loss"])
    if "loss_even_step" in arrays:
        near(loss(0), arrays["loss_even_step"])
    for key in arrays:
        if key.startswith("after.highway."):
            near(
                dict(made.exits.heads.named_buffers())[key.removeprefix("after.highway.")],
                arrays[key],
            )
    same_gradients(loss(1), names_of(made), arrays, config["no_grad"])


def stage_two_step(config: Config, arrays: Arrays) -> None:
    made = with_heads(config, arrays)
    assert made.exits is not None
    made.exits.train()
    logits, features, tokens = read_all(made)
    labels, kinds = torch.tensor(config["labels"]), made.exits.policy.kinds
    teacher = made.backbone.readout(tokens) if config["teacher_norm"] else unnormed(made, tokens)
    near(torch.stack(logits), arrays["exit_logits"])
    near(teacher, arrays["teacher_logits"])
    near(torch.stack([F.cross_entropy(own, labels) for own in logits]), arrays["loss_ce"])
    near(
        torch.stack([deit_soft(own, teacher, temperature=2.0) for own in logits]), arrays["loss_kd"]
    )
    grid, final = tokens.grid, tokens.patches
    near(torch.stack(hetero_terms(kinds, features, final, grid)), arrays["loss_hete"])
    local, wide = homo_terms(kinds, features)
    near(torch.stack(local), arrays["loss_homo_conv"])
    near(torch.stack(wide), arrays["loss_homo_attn"])
    loss = stage_two(kinds, logits, features, teacher, final, labels, grid=grid)
    near(loss, arrays["loss"])
    same_gradients(loss, names_of(made), arrays, [])


def unnormed(made: CompressedViT, tokens: Tokens) -> Tensor:
    """The classifiers on tokens without the final norm, as released."""
    model: Any = made.backbone.weights
    if tokens.num_prefix == 1:
        return model.head(tokens.x[:, 0])  # type: ignore[no-any-return]
    return (model.head(tokens.x[:, 0]) + model.head_dist(tokens.x[:, 1])) / 2  # type: ignore[no-any-return]


def names_of(made: CompressedViT) -> dict[str, Tensor]:
    """Parameters by timm's and the authors' names."""
    assert made.exits is not None
    own = {f"highway.{name}": p for name, p in made.exits.heads.named_parameters()}
    return {**dict(made.backbone.weights.named_parameters()), **own}


READERS: dict[str, Reader] = {"metr": metr, "lgvit": early, "earlyexit": early}
