"""Token maps: every patch in one place, as many tokens as the schedule says, of every method."""

import dataclasses
import random

import numpy as np
import pytest
import torch
from early import LAYERS, early_model

import autotok
from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone
from autotok.compression.model import CompressedViT
from autotok.compression.tap_request import TapRequest
from autotok.compression.token_map import PARKED, REMOVED, MapStage, TokenMap, token_maps
from autotok.config import CompressionConfig, Reduction
from autotok.exits import ExitPolicy
from autotok.methods import get_method, list_methods
from autotok.methods.base import Count, Kind, Placement
from autotok.methods.image_scoring import ImageScoring
from autotok.testing.reduction_case import stand_in

DRAWS = 4


def images(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def drawn(name: str, rng: random.Random) -> CompressionConfig:
    """A random schedule within the reach of a method."""
    method, facts = get_method(name), tiny_backbone().facts
    if method.kind is Kind.NONE:
        return CompressionConfig(name)
    layers = sorted(rng.sample(range(method.first_layer, 4), rng.randint(1, 3)))
    if method.placement is Placement.BEFORE_BLOCKS:
        layers = [0]
    elif method.single_layer:
        layers = layers[:1]
    reductions, entering = [], facts.num_patches
    for layer in layers:
        low, high = method.feasible(entering, method.resolve_options({}))
        entering = rng.randint(low, high)
        reductions.append(Reduction(layer, num_keep=entering))
    return CompressionConfig(name, tuple(reductions))


def model_of(config: CompressionConfig) -> CompressedViT:
    """Random learned parts, so that they decide something."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = compress_backbone(tiny_backbone(), config)
        for reducer in model.reducers.values():
            if isinstance(reducer, ImageScoring):
                reducer.network = stand_in()
            for parameter in reducer.parameters():
                if parameter.dim() > 1:
                    torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


def pair(method: str, keep: dict[int, int]) -> tuple[CompressedViT, TokenMap]:
    config = CompressionConfig(method, tuple(Reduction(k, num_keep=n) for k, n in keep.items()))
    model = model_of(config)
    return model, token_maps(model, images(1))[0]


@pytest.mark.parametrize("name", list_methods())
def test_every_patch_is_in_one_token_or_gone_and_counts_are_the_schedules(name: str) -> None:
    rng = random.Random(name)
    for _ in range(DRAWS):
        model = model_of(drawn(name, rng))
        watch = TapRequest(mapping=True)
        with torch.no_grad():
            model.forward_tokens(images(), trace=True, watch=watch)
        for moment in watch.moments:
            assert moment.tokens.source is not None
            assert int(moment.tokens.source.sum(dim=1).max()) <= 1, moment
        for found in token_maps(model, images()):
            check_counts(model, found)
            for stage in found.stages:
                places = [stage.kept, stage.merged, stage.parked, stage.removed]
                assert (np.sum(places, axis=0) == 1).all()
                assert stage.holder.max() < stage.num_tokens
                assert not (stage.recalled & ~stage.live).any()


def check_counts(model: CompressedViT, found: TokenMap) -> None:
    method, schedule = get_method(model.config.method), model.schedule
    if method.count is not Count.STATIC:
        return
    counts = {(s.layer, s.part): s.num_tokens for s in found.stages}
    assert [counts[layer, "attention"] for layer in range(4)] == list(schedule.attention)
    assert [counts[layer, "mlp"] for layer in range(4)] == list(schedule.mlp)
    assert counts[4, "read-out"] == schedule.readout
    for site in schedule.sites:
        if method.placement is Placement.AFTER and site.num_keep < site.num_entering:
            assert counts[site.layer, "after"] == site.num_keep


def test_pruned_patches_are_removed_and_stay_so() -> None:
    _, found = pair("topk", {1: 8, 2: 4})
    first, second = found.changes
    assert [found.place(s) for s in found.changes] == ["layer 1", "layer 2"]
    assert (first.kept.sum(), first.removed.sum()) == (8, 8)
    assert (second.kept.sum(), second.removed.sum()) == (4, 12)
    assert not (second.live & first.removed).any()


def test_merged_patches_are_told_from_those_that_kept_a_token() -> None:
    _, found = pair("tome", {0: 10})
    (stage,) = found.changes
    assert stage.live.all()
    assert stage.kept.sum() + stage.num_merging == 10
    assert stage.merged.sum() + stage.kept.sum() == 16


def test_parked_patches_are_recalled() -> None:
    _, found = pair("idlevit", {1: 6, 2: 6})
    one, two, back = found.changes
    assert (one.parked.sum(), one.recalled.sum()) == (10, 0)
    assert np.array_equal(two.recalled, one.parked & two.live)
    assert back.live.all()
    assert np.array_equal(back.recalled, two.parked)


def test_a_reduction_behind_a_block_says_so() -> None:
    _, found = pair("cropr", {1: 6})
    assert [found.place(s) for s in found.changes] == ["behind layer 1", "layer 3"]
    assert found.changes[1].recalled.sum() == 10


def test_pooled_patches_count_to_the_token_that_takes_most_of_them() -> None:
    model, found = pair("patchmerger", {1: 5})
    assert found.changes[0].live.all()
    reducer = model.reducers["1"]
    tokens, _ = model.backbone.embed(images(1))
    with torch.no_grad():
        tokens = model.backbone.run_blocks(tokens, 0, 1)
        weights = (reducer.queries @ reducer.norm(tokens.patches).transpose(1, 2)).softmax(dim=-1)
    assert found.changes[0].holder.tolist() == weights[0].argmax(dim=0).tolist()


def test_an_uncompressed_model_changes_nothing() -> None:
    found = token_maps(model_of(CompressionConfig()), images(1))[0]
    assert found.changes == ()


def test_the_map_says_what_the_model_says() -> None:
    model, found = pair("tome", {0: 10})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found.logits), model(images(1))[0])


def test_the_model_is_left_in_its_mode() -> None:
    model = model_of(CompressionConfig("topk", (Reduction(1, num_keep=8),))).train()
    token_maps(model, images(1))
    assert model.training


def test_survival_tells_what_is_held_and_what_is_held_apart() -> None:
    holder = np.array([0, 0, 1, 2, REMOVED, PARKED])
    stage = MapStage(1, "mlp", 3, holder, np.zeros(6, dtype=bool))
    wanted = np.array([True, False, True, False, True, True])
    assert stage.survival(wanted) == {"patches": 4, "held": 2, "held_apart": 1, "tokens": 2}
    assert stage.anchors.tolist() == [0, 0, 2, 3, REMOVED, PARKED]
    data = stage.to_dict()
    assert (data["kept"], data["merged"], data["merged_into"]) == (2, 2, 1)
    assert (data["parked"], data["removed"]) == (1, 1)


def test_the_order_of_tokens_alone_is_no_change() -> None:
    same = MapStage(0, "mlp", 4, np.array([3, 2, 1, 0]), np.zeros(4, dtype=bool))
    fewer = dataclasses.replace(same, layer=1, num_tokens=3, holder=np.array([0, 1, 2, 2]))
    found = TokenMap("any", (2, 2), 2, (same, fewer), np.zeros(2, dtype=np.float32))
    assert found.changes == (fewer,)


def test_the_map_of_an_image_ends_at_the_exit_that_answers_it() -> None:
    kinds = ("local", "local", "global-2", "global-3")
    policy = ExitPolicy(LAYERS, kinds, threshold=(0.35,))
    model = early_model(policy, "topk", (Reduction(0, num_keep=8), Reduction(3, num_keep=4)))
    shown = images(8)
    found = token_maps(model, shown)
    with torch.no_grad():
        np.testing.assert_allclose([m.logits for m in found], model(shown), atol=1e-5)
    assert len({own.stopped for own in found}) > 2
    for own in found:
        ended = (6, "read-out") if own.stopped is None else (own.stopped, "mlp")
        assert (own.stages[-1].layer, own.stages[-1].part) == ended
    unsettled = dataclasses.replace(policy, threshold=(), mean_macs=10**6)
    every = token_maps(early_model(unsettled, "topk", (Reduction(0, num_keep=8),)), shown)
    assert {own.stopped for own in every} == {None}


def test_what_a_first_pass_answers_is_what_the_map_says() -> None:
    model = autotok.compress(tiny_backbone(), method="cfvit", keep={0: 0.5}, untrained=True)
    with torch.no_grad():
        np.testing.assert_allclose(
            [m.logits for m in token_maps(model, images(4))], model(images(4)), atol=1e-5
        )
