"""What precedes the first reduction is computed once, and nobody can tell from the results."""

import dataclasses

import numpy as np
import pytest
import torch

import autotok.methods  # noqa: F401
from autotok.backbones.autoformer import AutoFormer, SupernetSpec
from autotok.backbones.base import Backbone
from autotok.backbones.tiny import tiny_backbone
from autotok.compression.activations import Activations
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig, Reduction, SubnetSpec
from autotok.counting.adaptive import metered
from autotok.evaluation.accuracy import Evaluator, Tally
from autotok.evaluation.data import ArrayData
from autotok.evaluation.preprocessing import Preprocessing

NUM_IMAGES, BATCH = 12, 4


def evaluator_of(backbone: Backbone) -> Evaluator:
    pixels = np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, 32, 32, 3), dtype=np.uint8)
    data = ArrayData("noise", pixels, None, Preprocessing(3, 32, 32, crop_pct=1.0))
    return Evaluator(backbone, data, metric="kl", batch_size=BATCH)


def autoformer() -> AutoFormer:
    torch.manual_seed(0)
    spec = SupernetSpec(
        48, 4, 3, 4.0, (48,), (4,), (3,), (4.0,), image_shape=(3, 32, 32), patch_size=8,
        num_classes=10, head_dim=16, max_offset=3,
    )  # fmt: skip
    net = AutoFormer(spec, SubnetSpec(48, (3, 2, 3, 2), (4.0,) * 4))
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return net.eval()


def judged(evaluator: Evaluator, config: CompressionConfig) -> Tally:
    model = compress_backbone(evaluator.backbone, config).eval()
    return evaluator.evaluate(metered(model), 0, NUM_IMAGES)


def keeping(evaluator: Evaluator, limit_bytes: int = 2**28) -> Activations:
    evaluator.activations = Activations(evaluator.backbone, limit_bytes=limit_bytes)
    return evaluator.activations


CANDIDATES = [
    CompressionConfig("topk", (Reduction(2, num_keep=9),)),
    CompressionConfig("tome", (Reduction(2, num_keep=12), Reduction(3, num_keep=9))),
    CompressionConfig("random", (Reduction(3, num_keep=5),)),
    CompressionConfig("dpcknn", (Reduction(1, num_keep=8),)),
    CompressionConfig("ltmp", (Reduction(2, num_keep=9),)),
    CompressionConfig("idlevit", (Reduction(2, num_keep=9),)),
    CompressionConfig("gtp", (Reduction(2, num_keep=12),)),
    CompressionConfig("evovit", (Reduction(2, num_keep=9),)),
    CompressionConfig("avit", (Reduction(0, num_keep=9),)),
    CompressionConfig("none"),
]


@pytest.mark.parametrize("make", [tiny_backbone, autoformer])
def test_tallies_are_the_same_to_the_last_bit(make: type[Backbone]) -> None:
    backbone = make().eval()
    alone, sharing = evaluator_of(backbone), evaluator_of(backbone)
    kept = keeping(sharing)
    for config in [*CANDIDATES, *CANDIDATES]:
        if config.method in ("topk", "evovit", "avit") and not backbone.facts.cls_is_supervised:
            continue
        assert judged(sharing, config) == judged(alone, config), config
    assert kept.hits > 0


def test_blocks_in_front_of_the_first_reduction_are_run_once() -> None:
    evaluator = evaluator_of(tiny_backbone().eval())
    kept, batches = keeping(evaluator), NUM_IMAGES // BATCH
    judged(evaluator, CANDIDATES[0])
    assert kept.hits == 0
    judged(evaluator, CANDIDATES[1])
    assert kept.hits == 2 * batches
    judged(evaluator, CANDIDATES[2])  # from block 2, whose tokens are there, to block 3
    assert kept.hits == 4 * batches
    judged(evaluator, CANDIDATES[2])
    assert kept.hits == 7 * batches


def test_methods_that_act_early_start_at_the_beginning() -> None:
    evaluator = evaluator_of(tiny_backbone().eval())
    kept = keeping(evaluator)
    for name in ("gtp", "avit"):
        (config,) = (c for c in CANDIDATES if c.method == name)
        judged(evaluator, config)
    assert kept.bytes == kept.hits == 0


def test_another_backbone_takes_nothing() -> None:
    evaluator = evaluator_of(tiny_backbone().eval())
    kept = keeping(evaluator)
    judged(evaluator, CANDIDATES[0])
    held = kept.bytes
    other = compress_backbone(tiny_backbone(seed=1), CANDIDATES[0]).eval()
    alone = evaluator_of(evaluator.backbone)
    found = evaluator.evaluate(other, 0, NUM_IMAGES)
    assert found == alone.evaluate(other, 0, NUM_IMAGES)
    assert (kept.hits, kept.bytes) == (0, held)


def test_memory_is_bounded_and_the_longest_unused_go() -> None:
    evaluator = evaluator_of(tiny_backbone().eval())
    facts = evaluator.backbone.facts
    tokens = facts.num_patches + facts.num_prefix
    size = 4 * BATCH * tokens * facts.blocks[0].width
    kept = keeping(evaluator, limit_bytes=2 * size)
    judged(evaluator, CANDIDATES[0])
    assert kept.bytes == 2 * size
    evaluator.evaluate(compress_backbone(evaluator.backbone, CANDIDATES[0]).eval(), 2 * BATCH, 99)
    assert kept.hits == 2


def test_training_and_traces_never_start_in_the_middle() -> None:
    model = compress_backbone(tiny_backbone().eval(), CANDIDATES[0])
    assert model.eval().unaltered_blocks() == 2
    assert model.train().unaltered_blocks() == 0
    assert model.entry is None


def test_what_all_blocks_share_counts_towards_the_limit() -> None:
    kept = Activations(tiny_backbone())
    images = torch.randn(2, 3, 32, 32)
    tokens, _ = tiny_backbone().embed(images)
    shared = torch.zeros(3, 17, 17)
    kept._keep(("a",), dataclasses.replace(tokens, shared=shared))  # type: ignore[arg-type]
    assert kept.bytes == tokens.x.nbytes + shared.nbytes
    kept.limit_bytes = kept.bytes
    kept._keep(("b",), tokens)  # type: ignore[arg-type]
    assert kept.bytes == tokens.x.nbytes
