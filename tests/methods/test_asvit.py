"""AS-ViT: class attention weighed by loudness, against a threshold or for a fixed count."""

import dataclasses

import pytest
import torch
from hand import reducer, tokens

from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig, Primitive, Reduction
from autotok.errors import ConfigError
from autotok.methods import Site, get_method
from autotok.methods.asvit import HEARD, ASViT
from autotok.methods.learning import LossContext
from autotok.testing import synthetic_facts
from autotok.tokens import Extra, Taps, Tokens

PATCHES = torch.arange(4.0).unsqueeze(1)


def scored(*scores: float, num_prefix: int = 1) -> Tokens:
    start = tokens(torch.arange(float(len(scores))).unsqueeze(1), num_prefix=num_prefix)
    return dataclasses.replace(start, extras={HEARD: Extra(torch.tensor([scores]))})


def made(*, keep: int = 2, num_prefix: int = 1, **options: Primitive) -> ASViT:
    new = reducer("asvit", entering=4, keep=keep, num_prefix=num_prefix, options=options)
    assert isinstance(new, ASViT)
    return new


def test_a_head_counts_by_its_share_of_the_loudness() -> None:
    row = torch.tensor([[[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]]])  # (1, 2 heads, 3)
    outputs = torch.tensor([[[[9.0], [1.0], [3.0]], [[9.0], [3.0], [1.0]]]])  # (1, 2, 3, 1)
    given = Taps({"cls_attention": row, "head_outputs": outputs})
    out = made().observe(0, tokens(PATCHES[:2]), given)
    expected = torch.tensor([[0.5 * 0.25 + 0.1 * 0.75, 0.3 * 0.75 + 0.3 * 0.25]])
    torch.testing.assert_close(out.extras[HEARD].values, expected)


@pytest.mark.parametrize(("how", "expected"), [("last", 2.0), ("sum", 3.0), ("ema", 1.01)])
def test_scores_of_blocks_add_up_as_asked(how: str, expected: float) -> None:
    one = made(accumulate=how)
    heard = tokens(PATCHES[:1])
    for attention in (1.0, 2.0):
        given = {"cls_attention": torch.tensor([[[0.0, attention]]])}
        given["head_outputs"] = torch.ones(1, 1, 2, 1)
        heard = one.observe(0, heard, Taps(given))
    torch.testing.assert_close(heard.extras[HEARD].values, torch.tensor([[expected]]))


def test_what_scores_above_the_threshold_stays_in_order() -> None:
    out = made(threshold=0.2).reduce(scored(0.3, 0.1, 0.4, 0.2), Taps(), 2)
    assert out.patches.flatten().tolist() == [0.0, 2.0]


def test_every_patch_may_go_beside_a_prefix_token_but_not_alone() -> None:
    assert made(threshold=0.9).reduce(scored(0.3, 0.1), Taps(), 2).num_patches == 0
    alone = made(threshold=0.9, num_prefix=0).reduce(scored(0.3, 0.4, num_prefix=0), Taps(), 2)
    assert alone.patches.flatten().tolist() == [1.0]


def test_the_fixed_count_form_keeps_the_best() -> None:
    one = reducer("asvit_batch", entering=4, keep=2)
    out = one.reduce(scored(0.3, 0.1, 0.4, 0.2), Taps(), 2)
    assert out.patches.flatten().tolist() == [2.0, 0.0]


def test_layer_0_is_refused_because_no_block_came_before() -> None:
    with pytest.raises(ConfigError, match="first layer is 1"):
        compress_backbone(tiny_backbone(), CompressionConfig("asvit", (Reduction(0),)))


@pytest.mark.parametrize(
    ("accumulate", "published"),
    [("last", (0.001, 0.002, 0.003)), ("sum", (0.004, 0.012, 0.02))],
)
def test_every_score_has_its_published_starts(
    accumulate: str, published: tuple[float, ...]
) -> None:
    method, facts = get_method("asvit"), synthetic_facts(1)
    options = method.resolve_options({"accumulate": accumulate})
    for index, wanted in enumerate(published):
        found = method(Site(index + 1, 15, 5, facts, index, (1, 2, 3)), options)
        assert isinstance(found, ASViT)
        assert found.threshold.item() == pytest.approx(wanted * 196 / facts.num_patches)


def test_thresholds_start_as_published_for_196_patches() -> None:
    one = made()
    facts = one.site.facts
    torch.testing.assert_close(one.threshold.item(), 0.001 * 196 / facts.num_patches)


def test_calibration_meets_the_nominal_mean_count() -> None:
    one = made(keep=3)
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(5, 8, generator=generator)
    start = Tokens(torch.zeros(5, 9, 2), 1, (1, 8), extras={HEARD: Extra(scores)})
    one.calibrating = True
    out = one.reduce(start, Taps(), 3)
    assert out.live is not None
    assert int(out.live.sum()) == 15
    assert one.calibrated() == {"threshold": one.threshold.item()}


def test_training_masks_with_a_gradient_to_the_threshold() -> None:
    one = made(threshold=0.2, tau=0.1).train()
    out = one.reduce(scored(0.3, 0.1, 0.4, 0.2), Taps(), 2)
    assert out.mask is not None
    assert out.mask.tolist() == [[1.0, 0.0, 1.0, 0.0]]
    out.mask.sum().backward()
    assert one.threshold.grad is not None
    assert float(one.threshold.grad) < 0


def test_the_cost_term_is_zero_at_the_planned_counts_and_pulls_towards_them() -> None:
    one = made(threshold=0.2, tau=0.1).train()
    out = one.reduce(scored(0.3, 0.1, 0.4, 0.15), Taps(), 2)
    met = one.extra_loss(LossContext(out, torch.zeros(1, 10)))
    assert met is not None
    assert met.item() == 0.0
    more = one.reduce(scored(0.3, 0.3, 0.4, 0.3), Taps(), 2)
    loss = one.extra_loss(LossContext(more, torch.zeros(1, 10)))
    assert loss is not None
    loss.backward()
    assert loss.item() > 0.0
    assert one.threshold.grad is not None
    assert float(one.threshold.grad) < 0  # a step down the gradient raises the threshold


def test_masked_training_drops_what_inference_removes() -> None:
    reductions = (Reduction(1, options={"threshold": 0.06}),)
    model = compress_backbone(tiny_backbone(), CompressionConfig("asvit", reductions))
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        removed = model.eval()(x)
        assert model.forward_tokens(x).num_patches < 16
        masked = model.train()(x)
    torch.testing.assert_close(masked, removed, atol=1e-4, rtol=0.0)


def test_training_writes_its_thresholds_into_the_configuration() -> None:
    config = CompressionConfig("asvit", (Reduction(1, num_keep=8), Reduction(2, num_keep=4)))
    model = compress_backbone(tiny_backbone(), config)
    with torch.no_grad():
        for number, parameter in enumerate(model.reducers.parameters(), start=1):
            parameter.fill_(number / 4)
    found = [r.options["threshold"] for r in model.emitted().reductions]
    assert found == [0.25, 0.5]
