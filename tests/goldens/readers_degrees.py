"""Readers of the methods for which one model serves several degrees of compression."""

import copy

import author_units as knobs
import numpy as np
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
    images,
    per_block,
    tiny_vit,
)
from torch import Tensor, nn
from torch.nn import functional as F

from autotok.backbones.size_tables import by_size, hold_size_tables, listed_sides
from autotok.backbones.timm_vit import TimmViT
from autotok.compression.compress import compress_backbone
from autotok.compression.folding import with_fold
from autotok.compression.model import CompressedViT
from autotok.compression.official import load_official
from autotok.compression.tap_request import TapRequest
from autotok.compression.two_pass import TwoPassViT
from autotok.config import CompressionConfig, Reduction
from autotok.methods.cfvit import CFViT
from autotok.methods.folding import WeightFold
from autotok.methods.learning import LossContext
from autotok.methods.primitives import confidence
from autotok.methods.tocom import Adapters, ToCom
from autotok.training.losses import deit_soft
from autotok.training.pair_distillation import PairSpec, PairStudent
from autotok.training.size_sandwich import SizedSubnet, subnet_losses

BLOCK_ATOL = 1e-4
"""Of tokens, which reach 16."""


def uniform(removed: int | list[int]) -> tuple[Reduction, ...]:
    return knobs.from_num_removed(removed, PATCHES, num_blocks=BLOCKS, at_most_half=True)


def learned(arrays: Arrays) -> dict[str, Tensor]:
    names = [key for key in arrays if key.startswith("extra.")]
    return {name.removeprefix("extra."): torch.from_numpy(arrays[name]) for name in names}


def tocom(config: Config, arrays: Arrays) -> Case:
    target = config["r_tgt"]
    assert config["r"] == (target if isinstance(target, list) else [target] * BLOCKS)
    if "mode" in config:
        assert config["mode"].startswith("training step")
        return Case(check=lambda arrays: tocom_training(config, arrays))
    options = {
        "proportional": bool(config["prop_attn"]),
        "scale": float(config["tocom_scale"]),
        "group_width": config["tocom_dim"],
        "rescaled": False,
    }
    tensors = learned(arrays)

    def compensate(model: CompressedViT) -> None:
        facts, kept, source = model.backbone.facts, model.schedule.by_layer, config["r_src"]
        if isinstance(source, list) or isinstance(target, list):  # degrees block by block
            adapters = Adapters.read(facts, tensors, group_width=config["tocom_dim"])
            fold: WeightFold | None = adapters.between(source, target, scale=config["tocom_scale"])
        else:
            resolved = ToCom.resolve_options({**options, "source_degree": source})
            fold = ToCom.weight_fold(facts, kept, resolved, tensors)
        if fold is not None:
            model.backbone = with_fold(model.backbone, fold)

    def compare(found: Outcome, arrays: Arrays) -> None:
        close(found.tokens.x, arrays["last_tokens"], atol=BLOCK_ATOL)
        if "final_size" in arrays:
            close(found.tokens.sizes(), arrays["final_size"].squeeze()[:, 1:])
        weight = found.model.backbone.qkv_weights(0)[0]
        close(weight, arrays["folded.blocks.0.attn.qkv.weight"], atol=1e-6)
        for which in ("src", "tgt"):
            plain = CompressionConfig("tome", uniform(config[f"r_{which}"]))
            with torch.no_grad():
                logits = compress_backbone(tiny_vit(), plain)(images())
            close(logits, arrays[f"logits_{which}"])

    chosen = CompressionConfig("tocom", uniform(config["r_tgt"]), options)
    return Case(chosen, prepare=compensate, compare=compare, block_atol=BLOCK_ATOL)


def tocom_training(config: Config, arrays: Arrays) -> None:
    """One step of the adapters' training, in the unfolded form."""
    width, source, target = config["tocom_dim"], config["r_src"], config["r_tgt"]
    adapters = Adapters.read(tiny_vit().facts, learned(arrays), group_width=width)
    spec = PairSpec(scale=config["tocom_scale"], group_width=width, dropout=0.0, rescaled=False)
    student = PairStudent(tiny_vit(), adapters, spec)
    teacher = student.teach(images(), source)
    close(teacher, arrays["teacher_logits"])
    logits = student.train()(images(), source, target)
    close(logits, arrays["logits"])
    watch = TapRequest(counting=True)
    student.at(target).forward_tokens(images(), watch=watch)
    counts = [watch.counts[layer].attention for layer in range(BLOCKS)]
    per_block(torch.stack(counts, dim=1), arrays["tokens"], 1)
    loss = deit_soft(logits, teacher)
    close(loss, arrays["loss"], rtol=1e-4, atol=0.0)
    loss.backward()
    for name, weight in adapters.named():
        expected = arrays[f"grad.{name}"]
        assert weight.grad is not None
        close(weight.grad, expected, atol=1e-3 * float(np.abs(expected).max()))
        assert bool((weight.grad[torch.from_numpy(expected == 0)] == 0).all())  # inactive units
    assert all(weight.grad is None for weight in student.backbone.parameters())


def cfvit(config: Config, arrays: Arrays) -> Case:
    options = {"alpha": float(config["alpha"]), "beta": float(config["beta"])}
    options |= {"attention_from": config["attention_blocks"][0]}
    options |= {"threshold": float(config.get("threshold", 1.0))}
    options |= {"fine_positions": bool(config.get("fine_pos_embed", True))}
    chosen = CompressionConfig("cfvit", (Reduction(0),), options)
    assert config["attention_blocks"] == list(range(options["attention_from"], BLOCKS))
    if "informative_selection" in config:
        return Case(chosen, check=lambda arrays: cfvit_training(chosen, config, arrays))
    return Case(chosen, check=lambda arrays: cfvit_passes(chosen, config, arrays))


def coarse_to_fine(chosen: CompressionConfig, arrays: Arrays) -> TwoPassViT:
    """The model with a file's parameters on a copy of the tiny ViT, so that it can train."""
    model = compress_backbone(copy.deepcopy(tiny_vit()), chosen)
    load_official(model, learned(arrays))
    assert isinstance(model, TwoPassViT)
    return model


@torch.no_grad()
def cfvit_passes(chosen: CompressionConfig, config: Config, arrays: Arrays) -> None:
    model = coarse_to_fine(chosen, arrays).eval()
    close(model(images()), arrays["logits"])
    first = model.first(images())
    close(first.logits, arrays["logits_coarse"])
    close(first.score, arrays["cls_attn"])
    close(first.tokens.x, arrays["last_tokens_coarse"], atol=BLOCK_ATOL)
    close(confidence(first.logits), arrays["confidence"])
    np.testing.assert_array_equal(model.answer(images()).refined.numpy(), arrays["refined"])
    blocks = range(BLOCKS)
    watch = TapRequest(after=frozenset(blocks), counting=True)
    fine = model.forward_tokens(images(), trace=True, watch=watch)
    close(model.backbone.readout(fine), arrays["logits_fine"])
    close(fine.x, arrays["last_tokens"], atol=BLOCK_ATOL)
    classes = torch.stack([watch.tokens[layer].x[:, 0] for layer in blocks])
    close(classes, arrays["block_cls"], atol=BLOCK_ATOL)
    counts = torch.stack([watch.counts[layer].attention for layer in blocks], dim=1)
    per_block(counts, arrays["tokens"], 1)
    assert arrays["tokens_coarse"].tolist() == [first.tokens.x.shape[1]] * BLOCKS
    assert fine.source is not None
    split = 4 * config["num_refined_patches"]
    np.testing.assert_array_equal(fine.source[:, :split].int().argmax(-1), arrays["fine_idx"])


def cfvit_training(chosen: CompressionConfig, config: Config, arrays: Arrays) -> None:
    """A step of the authors' engine: both losses, and gradients of their sum."""
    model = coarse_to_fine(chosen, arrays).train()
    reducer = model.method
    assert isinstance(reducer, CFViT)
    reducer.chooses = config["informative_selection"]
    tokens = model.forward_tokens(images())
    logits = model.backbone.readout(tokens)
    close(logits, arrays["logits_fine"])
    ce = F.cross_entropy(logits, torch.arange(4))
    kl = reducer.extra_loss(LossContext(tokens, logits))
    assert kl is not None
    close(ce, arrays["loss_ce"], rtol=1e-4, atol=0.0)
    close(kl, arrays["loss_kl"], rtol=1e-4, atol=0.0)
    close(ce + kl, arrays["loss"], rtol=1e-4, atol=0.0)
    (ce + kl).backward()
    found = dict(model.backbone.weights.named_parameters())
    found["pos_embed_list.1"] = found.pop("pos_embed")
    for name, value in reducer.named_parameters():
        theirs = "pos_embed_list.0" if name == "positions" else name.replace("reuse", "reuse_block")
        found[theirs] = value
    check_gradients(found, config, arrays)


# --- SuperViT


def sized_vit(arrays: Arrays) -> TimmViT:
    """The tiny ViT with a file's position tables, out of a state dict as the authors' model has."""
    weights = dict(tiny_vit().model.state_dict())
    official = {**weights, **learned(arrays), "pos_embed_list.2": weights.pop("pos_embed")}
    del official["pos_embed"]
    given = by_size(official, origin="golden", name="golden")
    model = copy.deepcopy(tiny_vit().model)
    hold_size_tables(model, listed_sides(given))
    model.load_state_dict(given)
    return TimmViT(model, name="golden")


def supervit(config: Config, arrays: Arrays) -> Case:
    assert config["keep_semantics"].startswith("count = ceil(keep * N), N counts cls")
    backbone = sized_vit(arrays)
    assert (*listed_sides(backbone.weights.state_dict()), 64) == tuple(config["image_sizes"])
    if "subnets" in config:
        return Case(check=lambda arrays: supervit_training(backbone, config, arrays))
    subnet = SizedSubnet(config["image_size"], config["keep"])
    chosen = subnet.config(backbone.facts, config["layers"])

    def compare(found: Outcome, arrays: Arrays) -> None:
        close(found.tokens.x, arrays["last_tokens"], atol=BLOCK_ATOL)
        assert found.tokens.x.shape[1] == config["final_tokens"]

    return Case(chosen, backbone=lambda: backbone, compare=compare, block_atol=BLOCK_ATOL)


def supervit_training(backbone: TimmViT, config: Config, arrays: Arrays) -> None:
    """A step of the authors' engine: four subnets, and gradients of the sum of their losses."""
    backbone.train()
    subnets = [SizedSubnet(side, rate) for side, rate in config["subnets"]]
    found = subnet_losses(backbone, subnets, images(), torch.arange(4), layers=config["layers"])
    for (logits, loss), theirs, expected in zip(
        found, arrays["sub_logits"], arrays["losses"], strict=True
    ):
        close(logits, theirs)
        close(loss, expected, rtol=1e-4, atol=0.0)
        loss.backward()
    weights = dict(backbone.model.named_parameters())
    weights["pos_embed_list.2"] = weights.pop("pos_embed")
    for number, side in enumerate(listed_sides(weights)):
        weights[f"pos_embed_list.{number}"] = weights.pop(f"pos_embed_by_size.{side}")
    check_gradients(weights, config, arrays)


def check_gradients(weights: dict[str, nn.Parameter], config: Config, arrays: Arrays) -> None:
    """Gradients of weights under the authors' names, and that the others have none."""
    assert {n for n, value in weights.items() if value.grad is None} == set(config["no_grad"])
    for key in (key for key in arrays if key.startswith(("grad.", "gradnorm."))):
        kind, _, name = key.partition(".")
        gradient, expected = weights[name].grad, arrays[key]
        assert gradient is not None, name
        if kind == "gradnorm":
            close(gradient.norm(), expected, rtol=1e-4, atol=0.0)
        else:
            close(gradient, expected, atol=1e-3 * float(np.abs(expected).max()))


READERS: dict[str, Reader] = {"tocom": tocom, "cfvit": cfvit, "supervit": supervit}
