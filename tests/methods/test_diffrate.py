import numpy as np
import pytest
import torch
from hand import attended, reducer, tokens
from learned import model, photos

from autotok.compression.compress import compress_backbone
from autotok.compression.model import CompressedViT
from autotok.config import CompressionConfig, Primitive, Reduction
from autotok.counting.macs import cost
from autotok.errors import ConfigError
from autotok.methods import get_method
from autotok.methods.diffrate import DiffRate
from autotok.methods.learning import LossContext
from autotok.testing import synthetic_facts

PATCHES = torch.tensor([[9.0, 9], [1, 0], [0, 1], [0, 3]])
TAPS = attended("cls_attention", [0.0, 0.1, 0.4, 0.3, 0.2])  # order of patches: 1, 2, 3, 0
GRANULAR: dict[str, Primitive] = {"granularity": 1}


def reduced(**options: Primitive) -> tuple[list[list[float]], list[float]]:
    method = reducer("diffrate", entering=4, keep=2, options=options)
    out = method.reduce(tokens(PATCHES), TAPS, 2)
    return out.patches[0].tolist(), out.sizes()[0].tolist()


def test_the_last_go_and_those_before_them_join_the_most_similar_that_stay() -> None:
    features, sizes = reduced(num_pruned=1)
    assert features == [[1, 0], [0, 2]]
    assert sizes == [1, 2]


def test_all_may_be_pruned_or_all_merged() -> None:
    assert reduced(prune_share=1.0) == ([[1, 0], [0, 1]], [1, 1])
    features, sizes = reduced(prune_share=0.0)
    assert features[0] == [5, 4.5]  # a tie goes to the first; the mean is a plain one
    assert sizes == pytest.approx([1 + 0.5**0.5, 2])


def test_half_of_the_removed_is_pruned_unless_said_otherwise() -> None:
    assert reduced() == reduced(num_pruned=1)


def test_more_cannot_be_pruned_than_goes() -> None:
    with pytest.raises(ConfigError, match="'num_pruned' of method 'diffrate' is 3, but layer 1"):
        reducer("diffrate", entering=4, keep=2, options={"num_pruned": 3})


def test_a_size_stays_above_zero_even_if_everything_is_unlike() -> None:
    method = reducer("diffrate", entering=2, keep=1, options={"prune_share": 0.0})
    taps = attended("cls_attention", [0.0, 0.6, 0.4])
    out = method.reduce(tokens(torch.tensor([[1.0, 0], [-1, 0]])), taps, 1)
    assert 0 < float(out.sizes()) < 0.01


def test_only_what_merges_is_compared() -> None:
    method, facts = get_method("diffrate"), synthetic_facts(1)
    options = method.resolve_options({"prune_share": 0.25})
    macs = method.overhead_macs(facts, 0, np.array([15, 15]), np.array([7, 15]), options)
    assert macs.tolist() == [6 * 7 * 16, 0]


def trained(prune: list[int], merge: list[int], **options: Primitive) -> CompressedViT:
    """Layers 0, 1, ... whose rates have settled on these numbers."""
    keep = [(layer, 15 - layer) for layer in range(len(prune))]
    made = model("diffrate", *keep, options={**GRANULAR, **options})
    total = made.backbone.facts.num_patches
    with torch.no_grad():
        for (p, m), site in zip(zip(prune, merge, strict=True), reducers(made), strict=True):
            for logits, number in ((site.prune_logits, p), (site.merge_logits, m)):
                logits.fill_(-100.0)
                logits[total - number] = 100.0
    return made


def reducers(made: CompressedViT) -> list[DiffRate]:
    found = list(made.reducers.values())
    assert all(isinstance(r, DiffRate) for r in found)
    return found  # type: ignore[return-value]


def test_the_learned_numbers_become_the_configuration() -> None:
    config = trained([13, 10, 16], [16, 8, 6]).emitted()
    wanted = [(0, 13, 3), (1, 8, 3), (2, 6, 0)]
    assert [(r.layer, r.num_keep, r.options["num_pruned"]) for r in config.reductions] == wanted


def test_masked_pruning_is_what_the_emitted_configuration_does() -> None:
    made = trained([13, 10, 6], [16, 16, 16])
    images = photos(made)
    emitted = compress_backbone(made.backbone, made.emitted()).eval()
    torch.testing.assert_close(made.train()(images), emitted(images), atol=1e-5, rtol=1e-5)


def test_masked_merging_keeps_the_tokens_and_the_means_of_inference() -> None:
    taps = attended("cls_attention", [0.0, 0.1, 0.4, 0.3, 0.2])
    made = trained([16], [2])
    method = reducers(made)[0]
    patches = torch.cat([PATCHES, torch.zeros(12, 2)]).double()
    row = torch.cat([taps.cls_attention[0, 0], torch.linspace(0.05, 0.01, 12)])
    method.train()
    out = method.reduce(tokens(patches), attended("cls_attention", row.tolist()), 2)
    assert out.mask is not None
    assert out.mask[0].tolist() == [1, 1] + [0] * 14
    given = {"prune_share": 0.0}
    hard = reducer("diffrate", entering=16, keep=2, options=given)
    inference = hard.reduce(tokens(patches), attended("cls_attention", row.tolist()), 2)
    torch.testing.assert_close(out.x[:, :3].float(), inference.x.float())


def test_no_token_leaves_in_training_and_masks_are_hard() -> None:
    made = trained([13, 10, 9], [16, 8, 6]).train()
    tokens = made.forward_tokens(photos(made))
    assert tokens.num_patches == 16
    assert tokens.mask is not None
    assert tokens.mask.sum(dim=1).tolist() == [6, 6, 6]
    assert sorted(set(tokens.mask.flatten().tolist())) == [0, 1]


@pytest.mark.parametrize("granularity", [1, 2])
def test_training_starts_from_the_configured_counts(granularity: int) -> None:
    options: dict[str, Primitive] = {"granularity": granularity, "num_pruned": 2}
    method = reducer("diffrate", entering=13, keep=6, options=options)
    assert isinstance(method, DiffRate)
    assert float(method.kept(method.prune_logits).detach()) == 11
    assert float(method.kept(method.merge_logits).detach()) == 6
    uniform = reducer("diffrate", entering=13, keep=6, options={**options, "start": "uniform"})
    assert isinstance(uniform, DiffRate)
    assert uniform.prune_logits.abs().sum() == 0


def test_a_number_to_keep_is_rounded_up_with_its_own_gradient() -> None:
    method = reducer("diffrate", entering=4, keep=2, options=GRANULAR)
    assert isinstance(method, DiffRate)
    with torch.no_grad():
        method.prune_logits.zero_()  # 15 candidates, 8 expected
        method.prune_logits[0] = 0.1
    kept = method.kept(method.prune_logits)
    assert float(kept.detach()) == 9
    kept.backward()  # type: ignore[no-untyped-call]
    assert method.prune_logits.grad is not None
    assert float(method.prune_logits.grad[0]) > 0 > float(method.prune_logits.grad[-1])


def test_the_cost_is_that_of_the_profile() -> None:
    config = CompressionConfig(
        "diffrate",
        (Reduction(0, num_keep=13), Reduction(2, num_keep=6)),
        {"prune_share": 1.0},
    )
    backbone = model("none").backbone
    site = reducers(compress_backbone(backbone, config))[0]
    macs = site.macs([0, 2], torch.tensor([[13.0, 16.0], [7.0, 6.0]], dtype=torch.float64))
    class_rows = sum(
        (count + 1) * backbone.facts.blocks[layer].inner_width
        for layer, count in ((0, 16), (2, 13))
    )
    assert int(macs) + class_rows == cost(backbone.facts, config).macs


def test_the_cost_pulls_both_numbers_down_and_the_last_site_says_so() -> None:
    made = trained([13, 10, 9], [16, 8, 6], target_gmacs=1e-9).train()
    tokens = made.forward_tokens(photos(made))
    context = LossContext(tokens, torch.zeros(3, 10))
    losses = [site.extra_loss(context) for site in reducers(made)]
    assert losses[:2] == [None, None]
    assert losses[2] is not None
    losses[2].backward()  # type: ignore[no-untyped-call]
    for site in reducers(made):
        for logits in (site.prune_logits, site.merge_logits):
            assert logits.grad is not None
            assert logits.grad.isfinite().all()


def test_the_target_is_the_cost_of_the_counts_unless_said_otherwise() -> None:
    made = trained([15, 14, 13], [16, 16, 16]).train()  # what the configuration keeps
    context = LossContext(made.forward_tokens(photos(made)), torch.zeros(3, 10))
    loss = reducers(made)[-1].extra_loss(context)
    assert loss is not None
    assert float(loss.detach()) == 0


def test_a_deployed_model_has_no_rates_and_runs() -> None:
    made = trained([13, 10, 9], [16, 8, 6])
    images = photos(made)
    before = made(images)
    made.deploy()
    assert list(made.reducers.parameters()) == []
    assert torch.equal(made(images), before)
    assert [r.num_keep for r in made.emitted().reductions] == [13, 8, 6]
