"""Readers of the methods for which one model serves several degrees of compression."""

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
from torch import Tensor

from autotok.compression.compress import compress_backbone
from autotok.compression.folding import with_fold
from autotok.compression.model import CompressedViT, TapRequest
from autotok.config import CompressionConfig, Reduction
from autotok.methods.tocom import Adapters, ToCom
from autotok.training.pair_distillation import PairSpec, PairStudent, pair_loss

BLOCK_ATOL = 1e-4
"""Of tokens, which reach 16."""


def uniform(removed: int) -> tuple[Reduction, ...]:
    return knobs.from_num_removed(removed, PATCHES, num_blocks=BLOCKS, at_most_half=True)


def learned(arrays: Arrays) -> dict[str, Tensor]:
    names = [key for key in arrays if key.startswith("extra.")]
    return {name.removeprefix("extra."): torch.from_numpy(arrays[name]) for name in names}


def tocom(config: Config, arrays: Arrays) -> Case:
    assert config["r"] == [config["r_tgt"]] * BLOCKS
    if "mode" in config:
        assert config["mode"].startswith("training step")
        return Case(check=lambda arrays: tocom_training(config, arrays))
    options = {
        "proportional": bool(config["prop_attn"]),
        "source_degree": config["r_src"],
        "scale": float(config["tocom_scale"]),
        "group_width": config["tocom_dim"],
        "rescaled": False,
    }
    tensors = learned(arrays)

    def compensate(model: CompressedViT) -> None:
        facts, kept = model.backbone.facts, model.schedule.by_layer
        fold = ToCom.weight_fold(facts, kept, ToCom.resolve_options(options), tensors)
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
    loss = pair_loss(logits, teacher)
    close(loss, arrays["loss"], rtol=1e-4, atol=0.0)
    loss.backward()
    for name, weight in adapters.named():
        expected = arrays[f"grad.{name}"]
        assert weight.grad is not None
        close(weight.grad, expected, atol=1e-3 * float(np.abs(expected).max()))
        assert bool((weight.grad[torch.from_numpy(expected == 0)] == 0).all())  # inactive units
    assert all(weight.grad is None for weight in student.backbone.parameters())


READERS: dict[str, Reader] = {"tocom": tocom}
