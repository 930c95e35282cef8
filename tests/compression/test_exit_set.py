"""Exits: images stop one by one, and nothing else about them changes."""

import dataclasses

import pytest
import torch
from early import LAYERS, LGVIT, early_model, images, median_policy

from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone, reconfigured
from autotok.compression.exit_heads import exit_head
from autotok.compression.exit_scores import score_exits
from autotok.config import CompressionConfig, Reduction
from autotok.errors import ConfigError
from autotok.exits import ExitPolicy
from autotok.methods import get_method, list_methods
from autotok.methods.base import Training
from autotok.methods.primitives import confidence, select
from autotok.tokens import Tokens, grid_coords

REDUCED = (Reduction(2, num_keep=9),)
ALL = ("linear", "vit", "metr", "local", "global-2", "global-3")


@torch.no_grad()
def test_a_threshold_of_one_never_stops_and_changes_no_bit() -> None:
    made = early_model(ExitPolicy((1, 3), threshold=(1.0,)))
    plain = compress_backbone(tiny_backbone(6), CompressionConfig()).eval()
    assert torch.equal(made(images()), plain(images()))


@torch.no_grad()
def test_a_threshold_below_zero_stops_at_the_first_exit() -> None:
    made = early_model(ExitPolicy((1, 3), threshold=(-1.0,)))
    number, answers = score_exits(made, images()).chosen(made)
    assert number.tolist() == [0] * 8
    torch.testing.assert_close(made(images()), answers)


BESIDE = [(("none"), kinds) for kinds in (LGVIT, ("linear",), ("vit",), ("metr",))]


@pytest.mark.parametrize(
    ("method", "kinds"), [*BESIDE, *((m, (k,)) for m in ("evit", "tome") for k in ALL)]
)
@torch.no_grad()
def test_a_batch_is_a_loop_over_its_images(method: str, kinds: tuple[str, ...]) -> None:
    made = early_model(median_policy(kinds), method, () if method == "none" else REDUCED)
    together = made(images())
    alone = torch.cat([made(image[None]) for image in images()])
    torch.testing.assert_close(together, alone, atol=2e-5, rtol=1e-5)
    _, answers = score_exits(made, images()).chosen(made)
    torch.testing.assert_close(together, answers, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ALL)
@torch.no_grad()
def test_what_masked_training_dropped_is_read_as_if_it_were_gone(kind: str) -> None:
    torch.manual_seed(0)
    facts = tiny_backbone().facts
    kept = torch.tensor([[0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 13]])
    whole = Tokens(torch.randn(1, 17, 48), 1, (4, 4), coords=grid_coords((4, 4)))
    mask = torch.zeros(1, 16).scatter(1, kept, 1.0)
    head = exit_head(kind, facts, 2).eval()
    for weight in head.parameters():
        torch.nn.init.normal_(weight, std=0.15)
    masked, gone = (
        head(t)[0] for t in (dataclasses.replace(whole, mask=mask), select(whole, kept))
    )
    torch.testing.assert_close(masked, gone, atol=1e-5, rtol=1e-5)


def test_a_block_of_its_own_learns_from_sizes_that_reach_nothing() -> None:
    torch.manual_seed(0)
    size = torch.tensor([[0.0, 2.0, 1.0, 1.0]], requires_grad=True)
    tokens = Tokens(torch.randn(1, 5, 48), 1, (2, 2), size=size, coords=grid_coords((2, 2)))
    exit_head("vit", tiny_backbone().facts, 2)(tokens)[0].sum().backward()
    assert size.grad is not None
    assert bool(size.grad.isfinite().all())


@pytest.mark.parametrize("kind", ALL)
@torch.no_grad()
def test_a_head_answers_an_image_of_which_no_patch_is_left(kind: str) -> None:
    made = early_model(ExitPolicy((1,), (kind,)))
    assert made.exits is not None
    head, facts = made.exits.head(0), made.backbone.facts
    tokens, _ = made.backbone.embed(images())
    coords = grid_coords(facts.grid).expand(len(tokens.x), -1, -1)
    live = torch.ones(tokens.x.shape[0], facts.num_patches, dtype=torch.bool)
    live[0] = False
    logits = head(dataclasses.replace(tokens, live=live, coords=coords, raster=False))[0]
    bare = dataclasses.replace(
        tokens, x=tokens.x[:1, : facts.num_prefix], coords=coords[:1, :0], raster=False
    )
    torch.testing.assert_close(logits[:1], head(bare)[0], atol=2e-5, rtol=1e-5)
    assert torch.isfinite(logits).all()


STATIC = [
    name
    for name in list_methods()
    if get_method(name).__module__.startswith("autotok.")
    and get_method(name).training_need is not Training.REQUIRED
    and name not in ("none", "papr")
]


@pytest.mark.parametrize("method", STATIC)
@torch.no_grad()
def test_any_method_goes_on_with_the_images_that_are_left(method: str) -> None:
    layer = 0 if get_method(method).placement.name == "BEFORE_BLOCKS" else 2
    made = early_model(median_policy(("global-2",)), method, (Reduction(layer, num_keep=9),))
    assert made.exits is not None
    middle = float(confidence(score_exits(made, images()).logits[0]).median())
    made.exits.policy = ExitPolicy(LAYERS, ("global-2",), threshold=(middle,))
    stops = score_exits(made, images()).chosen(made)[0]
    assert len(set(stops.tolist())) > 1
    alone = torch.cat([made(image[None]) for image in images()])
    torch.testing.assert_close(made(images()), alone, atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_heads_of_exits_that_nobody_reaches_do_not_run() -> None:
    made = early_model(ExitPolicy((1, 3), threshold=(-1.0,)))
    assert made.exits is not None
    ran: list[int] = []
    for number, head in enumerate(made.exits.heads):
        head.register_forward_hook(lambda *_, number=number: ran.append(number))
    made(images())
    assert ran == [0]


@torch.no_grad()
def test_in_training_no_image_stops() -> None:
    made = early_model(ExitPolicy((1,), threshold=(-1.0,)))
    plain = compress_backbone(tiny_backbone(6), CompressionConfig())
    torch.testing.assert_close(made.train()(images()), plain.train()(images()))


@torch.no_grad()
def test_another_policy_keeps_the_heads_that_still_fit() -> None:
    made = early_model(median_policy(LGVIT))
    other = CompressionConfig(exits=ExitPolicy((2, 3), ("local", "linear")))
    again = reconfigured(made, other)
    assert made.exits is not None
    assert again.exits is not None
    assert again.exits.heads[0] is made.exits.heads[1]
    assert again.exits.heads[1] is not made.exits.heads[2]


def test_a_grid_head_behind_a_reduction_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'local-dw' at layer 3 needs the whole grid .* layer 2"):
        early_model(ExitPolicy((1, 3), ("local-dw",)), "evit", REDUCED)


def test_an_exit_behind_a_block_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"exit at layer 6 cannot be: .* 6 blocks"):
        early_model(ExitPolicy((1, 6)))
