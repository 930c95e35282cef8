"""A-ViT: halting scores add up, halted tokens leave, the result is a mean over depth."""

import math

import pytest
import torch
from hand import reducer, tokens

from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone
from autotok.compression.model import CompressedViT
from autotok.compression.tap_request import TapRequest
from autotok.config import CompressionConfig, Primitive, Reduction
from autotok.methods.avit import AViT
from autotok.methods.learning import LossContext


def logit(score: float) -> float:
    return math.log(score / (1.0 - score))


def made(layer: int = 3, **options: Primitive) -> AViT:
    """At layer 3 of 6: blocks 3, 4 and 5 count."""
    given: dict[str, Primitive] = {"scale": 1.0, "threshold": 0.0, **options}
    new = reducer("avit", entering=2, keep=1, layer=layer, options=given)
    assert isinstance(new, AViT)
    return new


def rows(*values: tuple[float, float]) -> torch.Tensor:
    """One image of tokens with a score (channel 0) and a feature (channel 1)."""
    return torch.tensor([[[logit(score), feature] for score, feature in values]])


def model(**options: Primitive) -> CompressedViT:
    config = CompressionConfig("avit", (Reduction(0, num_keep=6),), options)
    return compress_backbone(tiny_backbone(), config)


def images(count: int = 4) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_the_result_is_the_mean_over_the_blocks_seen_weighed_by_score() -> None:
    one = made()
    start = tokens(torch.zeros(2, 2))
    start = one.before_blocks(start.with_x(rows((0.2, 1.0), (0.6, 2.0), (0.3, 3.0))), None)  # type: ignore[arg-type]
    after = one.reduce(start, None, 1)  # type: ignore[arg-type]
    assert after.num_patches == 2
    # class: 0.2 + 0.3; first patch 0.6 + 0.5 halts with the rest, 0.4; second 0.3 + 0.3
    after = one.after_block(4, after.with_x(rows((0.3, 10.0), (0.5, 20.0), (0.3, 30.0))))
    assert after.num_patches == 1
    # the last block takes what is left: 0.5 for the class token, 0.4 for the second patch
    after = one.after_block(5, after.with_x(rows((0.1, 100.0), (0.1, 300.0))))
    out = one.finish(after)
    expected = [
        0.2 * 1 + 0.3 * 10 + 0.5 * 100,
        0.6 * 2 + 0.4 * 20,
        0.3 * 3 + 0.3 * 30 + 0.4 * 300,
    ]
    torch.testing.assert_close(out.x[0, :, 1], torch.tensor(expected))


def test_blocks_before_the_layer_do_not_count() -> None:
    one = made()
    start = tokens(torch.zeros(2, 2))
    assert one.after_block(2, start) is start


def test_an_image_whose_class_token_halted_is_finished() -> None:
    one = made()
    start = one.before_blocks(tokens(torch.zeros(2, 2)), None)  # type: ignore[arg-type]
    start = start.with_x(rows((0.999, 1.0), (0.1, 2.0), (0.1, 3.0)))
    assert one.reduce(start, None, 1).num_patches == 0  # type: ignore[arg-type]


def test_where_nothing_halts_the_last_block_alone_is_read() -> None:
    far = model(scale=1.0, threshold=100.0).eval()
    with torch.no_grad():
        torch.testing.assert_close(far(images()), tiny_backbone()(images()))


def test_training_masks_what_inference_removes() -> None:
    own = model(scale=2.0, threshold=2.0)
    with torch.no_grad():
        removed = own.eval()(images())
        watch = TapRequest(counting=True)
        own.forward_tokens(images(), watch=watch)
        masked = own.train()(images())
    assert watch.counts[3].attention.sum() < 64
    torch.testing.assert_close(masked, removed, atol=1e-5, rtol=0.0)


def test_ponder_cost_counts_the_blocks_seen_and_the_rest() -> None:
    one = made(prior_weight=0.0, ponder_weight=1.0).train()
    start = one.before_blocks(tokens(torch.zeros(1, 2)), None)  # type: ignore[arg-type]
    x = rows((0.2, 1.0), (0.6, 2.0))
    after = one.reduce(start.with_x(x), None, 1)  # type: ignore[arg-type]
    after = one.after_block(4, after.with_x(rows((0.3, 1.0), (0.5, 1.0))))
    after = one.after_block(5, after.with_x(rows((0.3, 1.0), (0.5, 1.0))))
    loss = one.extra_loss(LossContext(one.finish(after), torch.zeros(1, 10)))
    assert loss is not None
    # class token: 3 blocks and 0.5 left; patch: 2 blocks and 0.4 left
    torch.testing.assert_close(loss, torch.tensor((3.5 + 2.4) / 2))


def test_gradients_of_the_loss_reach_the_halting_channel() -> None:
    own = model(scale=2.0, threshold=2.0).train()
    one = own.reducers["0"]
    assert isinstance(one, AViT)
    found = own.forward_tokens(images())
    loss = one.extra_loss(LossContext(found, torch.zeros(4, 10)))
    assert loss is not None
    loss.backward()
    grad = own.backbone.get_parameter("model.blocks.0.mlp.fc2.bias").grad
    assert grad is not None
    assert grad[0].abs() > 0
    own.backbone.zero_grad()
    own.deploy()
    assert one.extra_loss(LossContext(found, torch.zeros(4, 10))) is None


@pytest.mark.parametrize("keep", [4, 10])
def test_calibration_nears_the_nominal_mean_count(keep: int) -> None:
    config = CompressionConfig("avit", (Reduction(0, num_keep=keep),), {"scale": 2.0})
    own = compress_backbone(tiny_backbone(), config).eval()
    one = own.reducers["0"]
    assert isinstance(one, AViT)
    many = images(32)
    with torch.no_grad():
        one.calibrating = True
        own(many)
        one.calibrating = False
        watch = TapRequest(counting=True)
        own.forward_tokens(many, watch=watch)
    counts = torch.stack([watch.counts[layer].attention for layer in (1, 2, 3)]).double()
    assert abs(counts.mean().item() - keep) < 1.5
    assert one.calibrated() == {"threshold": one.threshold}
