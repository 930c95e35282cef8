import dataclasses
import itertools

import numpy as np
import pytest
import torch
from hand import tokens
from learned import decided, model, photos, some_masks, taught
from torch import Tensor, nn

from autotok.compression.calibrate import calibrate_thresholds
from autotok.compression.model import CompressedViT
from autotok.compression.schedule import realise
from autotok.compression.tap_request import TapRequest
from autotok.config import CompressionConfig, Primitive, Reduction
from autotok.counting.counter import count_macs
from autotok.counting.macs import cost
from autotok.errors import ConfigError
from autotok.methods import Site, get_method
from autotok.methods.freezing import Freezing
from autotok.methods.learning import LossContext
from autotok.testing import synthetic_facts
from autotok.tokens import AttentionRule, Taps, Tokens, grid_coords

PATCHES = torch.tensor([[1.0], [4], [-2], [3]])
FACTS = dataclasses.replace(synthetic_facts(1), grid=(2, 2))


class Said(nn.Module):
    """A selector that reads its answer off the first channel."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x[..., 0], torch.zeros_like(x[..., 0])], dim=-1)


class Hundredfold(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 100 * x


def stage(name: str, index: int, keep: int, facts=FACTS, layers=(1, 3)) -> Freezing:
    method = get_method(name)
    site = Site(layers[index], facts.num_patches, keep, facts, index, layers)
    made = method(site, method.resolve_options({})).eval()
    assert isinstance(made, Freezing)
    made.selector = Said()  # type: ignore[assignment]
    if made.approximator is not None:
        made.approximator = Hundredfold()  # type: ignore[assignment]
    return made


def start(patches: Tensor = PATCHES) -> Tokens:
    return dataclasses.replace(tokens(patches), grid=(2, 2), coords=grid_coords((2, 2)))


@pytest.mark.parametrize("name", ["tofe", "tofe-instance"])
def test_frozen_tokens_come_back_as_estimates_to_their_places(name: str) -> None:
    first = stage(name, 0, 3).reduce(start(), Taps(), 3)
    assert sorted(first.patches[0, :, 0].tolist()) == [1, 3, 4]
    ran = first.with_x(first.x + 10)
    second = stage(name, 1, 3).reduce(ran, Taps(), 3)
    assert sorted(second.patches[0, :, 0].tolist()) == [11, 13, 14]  # the estimate is -200
    again = stage(name, 0, 4).reduce(ran, Taps(), 4)
    if name == "tofe":
        assert again.patches[0, :, 0].tolist() == [11, 14, -200, 13]


def test_later_stages_may_keep_more() -> None:
    made = model("tofe", (1, 3), (2, 12))
    assert made.schedule.attention == (16, 3, 12, 12)
    assert made.forward_tokens(photos(made)).num_patches == 12


def test_an_image_may_keep_nothing_where_only_the_class_token_is_read() -> None:
    out = stage("tofe-instance", 0, 2).reduce(start(-PATCHES.abs()), Taps(), 2)
    assert out.num_patches == 0
    back = stage("tofe-instance", 0, 2).reduce(out, Taps(), 2)
    assert back.num_patches == 0
    pooled = dataclasses.replace(FACTS, pooling="mean")
    out = stage("tofe-instance", 0, 2, pooled).reduce(start(-PATCHES.abs()), Taps(), 2)
    assert out.patches[0, :, 0].tolist() == [-1]


@pytest.mark.parametrize("name", ["tofe", "tofe-instance"])
def test_training_form_equals_inference_with_the_same_decisions(name: str) -> None:
    made = model(name, (1, 9), (2, 12), (3, 4))
    images = photos(made)
    with torch.no_grad():
        masks = kept(made, images)
        expected = made(images)
        with decided(*masks):
            masked = made.train()(images)
    if name == "tofe-instance":
        assert len(set(masks[0].sum(1).tolist())) > 1  # images differ, so padding is at work
    torch.testing.assert_close(masked, expected, rtol=0, atol=1e-9)


def kept(made: CompressedViT, images: Tensor) -> list[Tensor]:
    """(B, N0) masks of every stage at inference."""
    layers = [int(layer) for layer in made.reducers]
    watch = TapRequest(after=frozenset(layers))
    made.forward_tokens(images, trace=True, watch=watch)
    masks = []
    for layer in layers:
        found = watch.tokens[layer]
        assert found.source is not None
        live = found.source if found.live is None else found.source & found.live.unsqueeze(-1)
        masks.append(live.any(dim=1))
    return masks


def test_selectors_and_approximators_are_taught() -> None:
    made = model("tofe", (1, 9), (2, 12), (3, 4)).train()
    with decided(*some_masks(made, 3)):
        taught(made, made(photos(made)).square().sum())


def context(**teacher: Tensor) -> LossContext:
    layers = {int(name[1:]): values for name, values in teacher.items()}
    return LossContext(tokens(PATCHES), torch.zeros(1, 10), teacher=layers)


def test_estimates_are_compared_with_the_teachers_tokens_before_the_next_stage() -> None:
    method = stage("tofe", 0, 2).train()
    with decided(torch.tensor([[1.0, 0, 0, 1]])):
        method.reduce(start(), Taps(), 2)
    assert method.teacher_layers() == {2}
    teacher = torch.tensor([0.0, 7, 398, -199, 7]).reshape(1, 5, 1)
    assert float(method.extra_loss(context(b2=teacher))) == pytest.approx(2 * (4 + 1) / 2)
    assert method.extra_loss(context()) is None
    assert stage("tofe", 1, 2).teacher_layers() == set()


def test_estimates_teach_no_selector_what_to_freeze() -> None:
    made = model("tofe", (1, 9), (2, 12), (3, 4)).train()
    made(photos(made))
    first = made.reducers["1"]
    (block,) = first.teacher_layers()
    teacher = torch.zeros(len(photos(made)), 1 + made.backbone.facts.num_patches, 48)
    first.extra_loss(context(**{f"b{block}": teacher})).backward()
    assert first.approximator.fc2.bias.grad.abs().sum() > 0.0
    assert all(p.grad is None for p in first.selector.parameters())


def test_the_budget_loss_is_nil_on_plan_and_a_square_share_off_it() -> None:
    plan = torch.tensor([[1.0, 1, 0, 0]])
    losses = []
    for masks in ((plan, plan), (plan, torch.ones(1, 4))):
        first, last = stage("tofe", 0, 2).train(), stage("tofe", 1, 2).train()
        with decided(*masks):
            last.reduce(first.reduce(start(), Taps(), 2), Taps(), 2)
        losses.append(float(last.extra_loss(context())))
    block = FACTS.blocks[0]

    def macs(n: int) -> int:
        return n * (4 * 16 * 16 + 2 * 16 * block.hidden) + 2 * n * n * 16

    assert losses[0] == pytest.approx(0.0, abs=1e-9)
    off = 3 * (macs(5) - macs(3)) / (6 * macs(5))
    assert losses[1] == pytest.approx(5 * off**2, rel=1e-4)


def test_mean_counts_of_training_become_the_configuration() -> None:
    made = model("tofe", (1, 9), (2, 12))
    assert made.emitted() == made.config
    made.train()
    mask = torch.zeros(3, 16)
    mask[:, :5] = 1.0
    for _ in range(300):
        for one in made.reducers.values():
            with decided(mask), torch.no_grad():
                given = dataclasses.replace(
                    Tokens(torch.zeros(3, 17, 48).double(), 1, (4, 4)), rule=AttentionRule()
                )
                one.reduce(given, Taps(), 9)
    assert [r.num_keep for r in made.emitted().reductions] == [5, 5]


def test_costs_count_estimates_between_stages_only() -> None:
    made = model("tofe", (1, 9), (2, 12))
    facts, method = made.backbone.facts, get_method("tofe")
    width = facts.blocks[0].width
    between = method.joint_macs(facts, (1, 2), np.array([[9, 12]]), method.resolve_options({}))
    assert between.tolist() == [(16 - 9) * 2 * width * (width // 2)]
    own = sum(parameter.numel() for parameter in made.reducers.parameters())
    assert cost(facts, made.config).params == facts.params + own


def test_calibration_meets_the_nominal_mean() -> None:
    made = model("tofe-instance", (1, 9), (2, 12))
    images = photos(made, 8)
    calibrate_thresholds(made, images)
    watch = TapRequest(counting=True)
    made.forward_tokens(images, watch=watch)
    assert float(watch.counts[1].attention.double().mean()) == pytest.approx(9)
    assert float(watch.counts[2].attention.double().mean()) == pytest.approx(12)


def test_official_names_are_known() -> None:
    method = get_method("tofe")
    assert method.official_name("selectors.2.fc1.bias") == (2, "selector.fc1.bias")
    assert method.official_name("approximators.0.fc2.weight") == (0, "approximator.fc2.weight")
    assert method.official_name("head.weight") is None


def test_costs_are_exact() -> None:
    made = model("tofe", (1, 9), (2, 12), (3, 4))
    assert count_macs(made) == cost(made.backbone.facts, made.config).macs


ABLATIONS: list[dict[str, Primitive]] = [
    {"reuse": False},
    {"selector": "dynamicvit"},
    {"selector": "dynamicvit", "reuse": False},
    *({"approximator": kind} for kind in ("identity", "depthwise", "block")),
]


@pytest.mark.parametrize("options", ABLATIONS, ids=str)
@pytest.mark.parametrize("name", ["tofe", "tofe-instance"])
def test_ablations_train_as_they_infer_and_are_batched_as_alone(
    name: str, options: dict[str, Primitive]
) -> None:
    made = model(name, (1, 11), (2, 7), (3, 4), options=options)
    images = photos(made)
    if name == "tofe-instance":
        calibrate_thresholds(made, images)
    with torch.no_grad():
        masks = kept(made, images)
        expected = made(images)
        alone = torch.cat([made(image) for image in images.split(1)])
        with decided(*masks):
            masked = made.train()(images)
    torch.testing.assert_close(alone, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(masked, expected, rtol=0, atol=1e-9)
    if not options.get("reuse", True):
        assert all(bool((b <= a).all()) for a, b in itertools.pairwise(masks))


@pytest.mark.parametrize("options", ABLATIONS, ids=str)
def test_costs_of_ablations_are_exact(options: dict[str, Primitive]) -> None:
    made = model("tofe", (1, 12), (2, 9), (3, 4), options=options)
    exact = cost(made.backbone.facts, made.config)
    assert count_macs(made) == exact.macs
    own = sum(parameter.numel() for parameter in made.reducers.parameters())
    assert exact.params == made.backbone.facts.params + own


def test_without_reuse_no_stage_can_keep_more_than_the_one_before() -> None:
    facts = synthetic_facts(1)
    rising = (Reduction(1, num_keep=5), Reduction(3, num_keep=9))
    assert realise(CompressionConfig("tofe", rising), facts).kept == (5, 9)
    with pytest.raises(ConfigError, match="keep 9 patch tokens, but only 5 arrive"):
        realise(CompressionConfig("tofe", rising, {"reuse": False}), facts)
    mixed = (Reduction(1, num_keep=9), Reduction(3, num_keep=5, options={"reuse": False}))
    with pytest.raises(
        ConfigError, match=r"'reuse' .* is one for all layers, and layer 3 gives False"
    ):
        realise(CompressionConfig("tofe", mixed), facts)


def test_identical_estimates_are_the_frozen_tokens_themselves() -> None:
    method = get_method("tofe")
    site = Site(1, FACTS.num_patches, 3, FACTS, 0, (1, 3))
    made = method(site, method.resolve_options({"approximator": "identity"})).eval()
    made.selector = Said()  # type: ignore[assignment]
    (waiting,) = made.reduce(start(), Taps(), 3).parked
    assert waiting.x.flatten().tolist() == [-2.0]
