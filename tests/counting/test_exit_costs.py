"""Stopping at each exit costs what torch counts, by the tokens that ran."""

import dataclasses

import numpy as np
import pytest
import torch
from early import LGVIT, early_model, images, median_policy

from autotok.backbones.base import Backbone
from autotok.backbones.loading import as_backbone
from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone, reconfigured
from autotok.compression.exit_scores import recorded_exits, stopped_macs, sureness
from autotok.compression.model import CompressedViT
from autotok.compression.schedule import is_adaptive
from autotok.compression.two_pass import TwoPassViT
from autotok.config import CompressionConfig, Options, Reduction
from autotok.counting.adaptive import Metered
from autotok.counting.counter import count_each, count_macs
from autotok.counting.exit_costs import (
    exit_threshold,
    macs_by_stop,
    measured_exit_macs,
    scheduled_exit_macs,
)
from autotok.counting.macs import cost
from autotok.errors import ConfigError
from autotok.exits import ExitPolicy
from autotok.methods.base import Placement
from autotok.methods.registry import get_method, list_methods
from autotok.methods.two_pass import TwoPass

from timm.models.vision_transformer_relpos import VisionTransformerRelPos  # isort: skip

CASES = [
    ("none", LGVIT, ()),
    ("none", ("vit",), ()),
    ("evit", ("linear",), (Reduction(2, num_keep=9),)),
    ("evit", ("local",), (Reduction(2, num_keep=9),)),
    ("tome", ("global-2",), (Reduction(1, num_keep=9),)),
    ("tome", ("metr",), (Reduction(3, num_keep=9),)),
]


@pytest.mark.parametrize(("method", "kinds", "reductions"), CASES)
@torch.no_grad()
def test_every_exit_costs_what_torch_counts(
    method: str, kinds: tuple[str, ...], reductions: tuple[Reduction, ...]
) -> None:
    whole = early_model(ExitPolicy((1, 2, 3, 4), kinds), method, reductions)
    image = images(1)
    costs, _ = measured_exit_macs(whole, recorded_exits(whole, [image]))
    for number in range(5):
        assert whole.exits is not None
        tau = tuple(-1.0 if number == exit else 1.0 for exit in range(4))
        whole.exits.policy = ExitPolicy((1, 2, 3, 4), kinds, threshold=tau)
        assert [costs[0, number]] == count_each(whole, image)


@torch.no_grad()
def test_an_exit_behind_the_last_block_is_not_read_out_once_more() -> None:
    model = early_model(ExitPolicy((1, 3), threshold=(1.0, -1.0)), backbone=tiny_backbone())
    costs = scheduled_exit_macs(model.backbone.facts, model.config)
    assert costs[-1] - costs[-2] == model.backbone.facts.readout_macs == 480
    assert [costs[-2]] == count_each(model, torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize(("method", "kinds", "reductions"), CASES)
def test_the_cost_of_a_configuration_is_that_of_going_on_to_the_end(
    method: str, kinds: tuple[str, ...], reductions: tuple[Reduction, ...]
) -> None:
    made = early_model(ExitPolicy((1, 2, 3, 4), kinds), method, reductions)
    found = cost(made.backbone.facts, made.config)
    assert found.macs == count_macs(made)
    assert found.macs == scheduled_exit_macs(made.backbone.facts, made.config)[-1]
    assert found.params == sum(p.numel() for p in made.parameters())


OPTIONS: dict[str, Options] = {
    "tofe": {"approximator": "block"},
    "ats": {"rows": "fixed"},
    "cropr": {"llf": True},
}
QUICK = ("evit", "gtp")
# papr's network comes with weights of its own only
EVERY = [
    pytest.param(name, options, marks=() if options or name in QUICK else pytest.mark.slow)
    for name in list_methods()
    if name not in ("none", "papr") and not issubclass(get_method(name), TwoPass)
    for options in (({}, OPTIONS[name]) if name in OPTIONS else ({},))
]


def stopped_at_one_exit(
    backbone: Backbone, method: str, options: Options, stop: int = 2
) -> tuple[CompressedViT, list[int], list[int]]:
    """Reductions before and behind an exit, or behind alone, and before the last block: the model,
    what stopping and not stopping cost by the tokens that ran, and what torch counts."""
    kind, policy = get_method(method), ExitPolicy((stop,), ("vit",))
    layers = (1,) if kind.single_layer else (1, 3)
    layers = (0,) if kind.placement is Placement.BEFORE_BLOCKS else layers
    reductions = tuple(Reduction(layer, num_keep=11 - layer) for layer in layers)
    config = CompressionConfig(method, reductions, options, exits=policy)
    model = compress_backbone(backbone, config).eval()
    assert model.exits is not None
    image, counted = torch.randn(1, *backbone.facts.image_shape), list[int]()
    told, _ = measured_exit_macs(model, recorded_exits(model, [image]))
    for threshold in (-1.0, 1.0):
        model.exits.policy = dataclasses.replace(policy, threshold=(threshold,))
        counted += count_each(model, image)
    return model, told[0].tolist(), counted


@pytest.mark.parametrize("stop", [0, 2])
@pytest.mark.parametrize(("method", "options"), EVERY)
@torch.no_grad()
def test_every_method_costs_what_torch_counts_wherever_it_stops(
    method: str, options: Options, stop: int
) -> None:
    torch.manual_seed(0)
    model, told, counted = stopped_at_one_exit(tiny_backbone(5), method, options, stop)
    assert told == counted
    if not is_adaptive(model.config):
        assert scheduled_exit_macs(model.backbone.facts, model.config).tolist() == counted


@pytest.mark.parametrize("keep", [(0.5, 0.5), (1.0, 0.5), (1.0, 1.0)])
@pytest.mark.parametrize("graph", ["mixed", "spatial"])
@torch.no_grad()
def test_a_graph_costs_images_that_stop_before_it_is_used(
    keep: tuple[float, float], graph: str
) -> None:
    reductions = tuple(Reduction(at, ratio) for at, ratio in zip((1, 3), keep, strict=True))
    policy = ExitPolicy((0, 2), threshold=(-1.0,))
    model = compress_backbone(
        tiny_backbone(5), CompressionConfig("gtp", reductions, {"graph": graph}, exits=policy)
    ).eval()
    first, _, end = scheduled_exit_macs(model.backbone.facts, model.config)
    assert count_each(model, torch.zeros(1, 3, 32, 32)) == [first]
    assert end == cost(model.backbone.facts, model.config).macs


@pytest.mark.parametrize("shared", [False, True])
@torch.no_grad()
def test_networks_of_positions_cost_nothing_in_blocks_that_never_run(shared: bool) -> None:
    model = VisionTransformerRelPos(
        img_size=32, patch_size=8, embed_dim=32, depth=5, num_heads=4, num_classes=5,
        class_token=True, shared_rel_pos=shared, rel_pos_dim=8,
    )  # fmt: skip
    _, told, counted = stopped_at_one_exit(as_backbone(model.eval()), "topk", {})
    assert told == counted


@torch.no_grad()
def test_rows_that_pad_cost_what_others_do_where_they_always_run() -> None:
    reductions = (Reduction(1, num_keep=12),)
    policy = ExitPolicy((2, 3, 4), ("vit", "local", "global-2"), threshold=(1.0,))
    config = CompressionConfig("ats", reductions, {"rows": "fixed"}, exits=policy)
    model, some = compress_backbone(tiny_backbone(5), config).eval(), images(3)
    scores = recorded_exits(model, [some])
    assert (scores.rows[:2] == 12).all()
    assert measured_exit_macs(model, scores)[0][:, -1].tolist() == count_each(model, some)
    metered = Metered(model).eval()
    metered(some)
    assert metered.image_costs is not None
    assert metered.image_costs.macs.tolist() == count_each(model, some)


def test_a_mean_cost_is_met_and_rises_with_the_threshold() -> None:
    made = early_model(ExitPolicy((1, 2, 3, 4), LGVIT))
    scores = recorded_exits(made, images(64).split(16))
    costs, _ = measured_exit_macs(made, scores)
    low, high = costs[:, 0].mean(), costs[:, -1].mean()
    asked = np.linspace(low, high, 5)
    found = [exit_threshold(made, scores, float(mean)) for mean in asked]
    assert found == sorted(found)
    assert made.exits is not None
    made.exits.policy = ExitPolicy((1, 2, 3, 4), LGVIT, threshold=(found[2],))
    number = scores.chosen(made)[0].numpy()
    mean = costs[np.arange(64), number].mean()
    assert mean <= asked[2]
    assert mean == pytest.approx(asked[2], rel=0.05)


def test_a_mean_cost_may_be_kept_by_some_of_its_standard_errors() -> None:
    made = early_model(ExitPolicy((1, 2, 3, 4), LGVIT))
    scores = recorded_exits(made, [images(64)])
    sure, (costs, _) = sureness(made, scores), measured_exit_macs(made, scores)
    asked = float(costs[:, [0, -1]].mean())
    spent = [
        stopped_macs(sure, costs, exit_threshold(made, scores, asked, errors=errors))
        for errors in (0.0, 2.0)
    ]
    allowed = asked - 2.0 * spent[0].std() / 8.0
    assert allowed - 0.05 * asked < spent[1].mean() <= allowed


def test_the_record_of_some_exits_is_that_of_a_model_with_these_alone() -> None:
    made = early_model(ExitPolicy((1, 2, 3, 4), LGVIT))
    fewer = reconfigured(made, CompressionConfig(exits=ExitPolicy((2, 4), LGVIT[1::2])))
    some, alone = recorded_exits(made, [images()]).of([1, 3]), recorded_exits(fewer, [images()])
    assert torch.equal(some.logits, alone.logits)
    np.testing.assert_array_equal(
        measured_exit_macs(fewer, some)[0], measured_exit_macs(fewer, alone)[0]
    )


def test_patience_has_no_threshold_to_calibrate() -> None:
    made = early_model(ExitPolicy((1, 2), criterion="patience"))
    with pytest.raises(ConfigError, match="'patience' cannot be calibrated"):
        exit_threshold(made, recorded_exits(made, [images(2)]), 1e9)


def test_what_stopping_costs_is_listed_stop_by_stop() -> None:
    model = early_model(median_policy(("linear",)))
    assert macs_by_stop(model) == tuple(scheduled_exit_macs(model.backbone.facts, model.config))
    twice = compress_backbone(tiny_backbone(), CompressionConfig("cfvit", (Reduction(0),)))
    assert isinstance(twice, TwoPassViT)
    exit, both = macs_by_stop(twice)
    assert both == cost(twice.backbone.facts, twice.config).macs
    assert exit < both
    assert macs_by_stop(compress_backbone(tiny_backbone(), CompressionConfig())) == ()
