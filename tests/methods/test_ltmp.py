import pytest
import torch
from hand import angles, keys, reducer, tokens
from learned import model, photos
from torch import Tensor

from autotok.compression.calibrate import calibrated, needs_calibration
from autotok.compression.compress import compress_backbone
from autotok.compression.model import CompressedViT
from autotok.compression.tap_request import TapRequest
from autotok.config import CompressionConfig, Primitive, Reduction
from autotok.methods import get_method
from autotok.methods.learning import LossContext
from autotok.methods.ltmp import LTMP
from autotok.tokens import AttentionRule, Taps

PATCHES = torch.tensor([[10.0], [20], [30], [40]])
LOOKS = angles(0, 85, 90, 170)  # with one prefix token patches 1 and 3 may merge into 0 and 2
CLOSE, FAR = 0.99, 0.999  # cos 5 degrees = 0.996


def received(*shares: float) -> Tensor:
    """A map (1, 1, N, N) in which every row gives the patches these shares."""
    row = torch.tensor([1.0 - sum(shares), *shares])
    return row.expand(1, 1, len(row), -1)


def taps(*shares: float) -> Taps:
    return Taps({"keys": keys(LOOKS).keys, "attention": received(*shares)})


def ltmp(merge: float, prune: float, keep: int = 4, **options: Primitive) -> LTMP:
    given = {"merge_threshold": merge, "threshold": prune, **options}
    method = reducer("ltmp", entering=4, keep=keep, options=given)
    assert isinstance(method, LTMP)
    return method


def test_a_pair_above_the_threshold_merges_in_place_of_the_odd_one() -> None:
    out = ltmp(CLOSE, 0.0).reduce(tokens(PATCHES), taps(0.1, 0.1, 0.1, 0.1), 4)
    assert out.x[0, :, 0].tolist() == [-1, 40, 10, 25]
    assert out.sizes().tolist() == [[1, 1, 2]]
    kept = ltmp(FAR, 0.0).reduce(tokens(PATCHES), taps(0.1, 0.1, 0.1, 0.1), 4)
    assert kept.x[0, :, 0].tolist() == [-1, 20, 40, 10, 30]


def test_what_receives_too_little_attention_goes() -> None:
    out = ltmp(1.0, 0.15).reduce(tokens(PATCHES), taps(0.2, 0.1, 0.3, 0.1), 4)
    assert out.x[0, :, 0].tolist() == [-1, 10, 30]


def test_a_merged_token_counts_with_its_greatest_part() -> None:
    out = ltmp(CLOSE, 0.15).reduce(tokens(PATCHES), taps(0.2, 0.3, 0.1, 0.1), 4)
    assert out.x[0, :, 0].tolist() == [-1, 10, 25]


def test_everything_may_go_but_the_prefix() -> None:
    out = ltmp(1.0, 1.0).reduce(tokens(PATCHES), taps(0.2, 0.1, 0.3, 0.1), 4)
    assert out.x[0, :, 0].tolist() == [-1]


def test_without_prefix_tokens_the_best_one_stays() -> None:
    options: dict[str, Primitive] = {"merge_threshold": 1.0, "threshold": 1.0}
    method = reducer("ltmp", entering=4, keep=2, num_prefix=0, options=options)
    row = torch.tensor([0.2, 0.1, 0.4, 0.3]).expand(1, 1, 4, -1)
    own = Taps({"keys": keys(LOOKS, num_prefix=0).keys, "attention": row})
    out = method.reduce(tokens(PATCHES, num_prefix=0), own, 2)
    assert out.x[0, :, 0].tolist() == [30]


def thresholds(merge: float, prune: float, *layers: int, **options: Primitive) -> CompressedViT:
    """A tiny model with the same thresholds at these layers."""
    config = CompressionConfig(
        "ltmp",
        tuple(Reduction(layer, num_keep=15 - layer) for layer in layers),
        {"merge_threshold": merge, "threshold": prune, **options},
    )
    made = compress_backbone(model("none").backbone, config)
    return made.double().eval()


@torch.no_grad()
def test_padding_is_seen_by_nobody() -> None:
    made = thresholds(0.5, 0.055, 0, 1, 2)
    images = photos(made, 5)
    watch = TapRequest(counting=True)
    made.forward_tokens(images, watch=watch)
    assert len(set(watch.counts[3].attention.tolist())) > 1
    together = made(images)
    for index in range(5):
        alone = made(images[index : index + 1])
        torch.testing.assert_close(together[index : index + 1], alone, rtol=1e-9, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_calibration_keeps_the_nominal_number_on_average(share: float) -> None:
    options: dict[str, Primitive] = {"merge_share": share}
    config = CompressionConfig("ltmp", (Reduction(1, num_keep=12),), options)
    made = compress_backbone(model("none").backbone, config).double().eval()
    assert needs_calibration(config)
    images = photos(made, 6)
    made = calibrated(made, images)
    watch = TapRequest(counting=True)
    made.forward_tokens(images, watch=watch)
    assert float(watch.counts[1].mlp.double().mean()) == pytest.approx(12, abs=0.2)
    found = made.reducers["1"].calibrated()  # type: ignore[operator]
    assert set(found) == {"merge_threshold", "threshold"}
    assert (found["threshold"] > 0) == (share < 1)
    assert (found["merge_threshold"] < 1) == (share > 0)


def test_what_calibration_found_can_be_written_and_read_again() -> None:
    made = thresholds(1.0, 0.0, 0, 1)
    with torch.no_grad():
        for site in made.reducers.values():
            site.merge_threshold.fill_(0.75)  # type: ignore[operator,union-attr]
            site.prune_threshold.fill_(62.5)  # type: ignore[operator,union-attr]
    config = made.emitted()
    for reduction in config.reductions:
        assert dict(reduction.options) == {"merge_threshold": 0.75, "threshold": 0.0625}
        assert reduction.num_keep is not None
    again = compress_backbone(made.backbone, config).double().eval()
    images = photos(made)
    with torch.no_grad():
        assert torch.equal(again(images), made(images))


def test_training_masks_the_tokens_that_inference_removes_first() -> None:
    made = thresholds(0.5, 0.055, 1)
    images = photos(made)
    watch = TapRequest(counting=True)
    made.forward_tokens(images, watch=watch)
    made.train()
    out = made.forward_tokens(images)
    assert out.num_patches == 16
    assert out.mask is not None
    assert out.mask.sum(dim=1).tolist() == watch.counts[2].attention.tolist()


@torch.no_grad()
def test_aligned_training_is_what_inference_does() -> None:
    made = thresholds(0.5, 0.055, 0, 1, 2, aligned=True)
    images = photos(made)
    expected = made(images)
    made.train()
    for site in made.reducers.values():
        site.rule = AttentionRule(diagonal=False, epsilon=0.0)  # type: ignore[assignment]
    torch.testing.assert_close(made(images), expected, rtol=1e-9, atol=1e-9)


def test_the_loss_reaches_both_thresholds_of_every_layer() -> None:
    made = thresholds(0.5, 0.055, 0, 1, 2, target=0.3).train()
    out = made.forward_tokens(photos(made))
    context = LossContext(out, made.backbone.readout(out))
    losses = [site.extra_loss(context) for site in made.reducers.values()]  # type: ignore[operator]
    assert losses[:2] == [None, None]
    losses[2].backward()
    for parameter in made.reducers.parameters():
        assert parameter.grad is not None
        assert float(parameter.grad) > 0 or float(parameter.grad) < 0


def test_the_cost_ratio_is_one_where_nothing_goes_and_is_aimed_at_the_counts() -> None:
    made = thresholds(1.0, 0.0, 1, 3)
    site = made.reducers["1"]
    assert isinstance(site, LTMP)
    assert float(site.cost_ratio([1, 3], torch.ones(2))) == pytest.approx(1)
    assert float(site.cost_ratio([1, 3], torch.tensor([0.5, 0.5]))) < 1
    out = made.train().forward_tokens(photos(made))
    last = made.reducers["3"]
    loss = last.extra_loss(LossContext(out, made.backbone.readout(out)))  # type: ignore[operator]
    assert float(loss.detach()) > 0  # all 16 are there, 14 and 12 are nominal


def test_thresholds_stay_between_zero_and_one() -> None:
    method = ltmp(0.9, 0.0)
    with torch.no_grad():
        method.merge_threshold.fill_(1.2)
        method.prune_threshold.fill_(-3.0)
    method.end_step()
    assert method.calibrated() == {"merge_threshold": 1.0, "threshold": 0.0}


def test_authors_thresholds_are_stored_in_our_unit() -> None:
    cls = get_method("ltmp")
    assert cls.official_name("blocks.2.prune_threshold") == (2, "prune_threshold")
    assert cls.official_name("blocks.2.attn.qkv.weight") is None
    assert float(cls.from_official("prune_threshold", torch.tensor(0.004))) == pytest.approx(4)
    assert float(cls.from_official("merge_threshold", torch.tensor(0.9))) == pytest.approx(0.9)
