"""ToCom: what its adapters add, for which degrees, and what they leave alone."""

from functools import cache

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from autotok.backbones.loading import load_structure
from autotok.errors import CheckpointError, ConfigError
from autotok.facts import BackboneFacts
from autotok.methods import get_method
from autotok.methods.author_units import from_num_removed
from autotok.methods.tocom import Adapters, ToCom, prefix_mask, removed_at, target_degree
from autotok.testing import synthetic_facts

FACTS = synthetic_facts(1)


def acting(group_width: int = 2) -> Adapters:
    """Adapters of random numbers: as they are born they add nothing."""
    adapters = Adapters(FACTS, group_width=group_width)
    generator = torch.Generator().manual_seed(1)
    for name, weight in adapters.named():
        if ".adapter_up." in name:
            weight.data.normal_(0.0, 0.3, generator=generator)
    return adapters.requires_grad_(False)


def weight(seed: int = 2) -> Tensor:
    block = FACTS.blocks[0]
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3 * block.inner_width, block.width, generator=generator)


@cache
def deit_base() -> BackboneFacts:
    return load_structure("deit_base_patch16_224").facts


def kept(removed: int, facts: BackboneFacts = FACTS) -> dict[int, int]:
    reductions = from_num_removed(
        removed, facts.num_patches, num_blocks=facts.num_blocks, at_most_half=True
    )
    return {r.layer: r.num_keep for r in reductions if r.num_keep is not None}


def test_the_last_groups_act_and_a_fraction_on_the_one_before() -> None:
    assert prefix_mask(0, 2).sum() == 0
    assert prefix_mask(16, 3).tolist() == [1.0] * 48
    assert prefix_mask(2, 2).tolist() == [0.0] * 28 + [1.0] * 4
    assert prefix_mask(1.25, 1).tolist() == [0.0] * 14 + [0.25, 1.0]


def test_folds_chain_and_turn_round() -> None:
    adapters, own, width = acting(), weight(), FACTS.blocks[0].width
    steps = own
    for source, target in ((2, 9), (9, 5)):
        steps = adapters.between(source, target, scale=0.1).fold(0, steps, width)
    at_once = adapters.between(2, 5, scale=0.1).fold(0, own, width)
    torch.testing.assert_close(steps, at_once, rtol=0.0, atol=1e-6)
    back = adapters.between(5, 2, scale=0.1).fold(0, at_once, width)
    torch.testing.assert_close(back, own, rtol=0.0, atol=1e-6)
    assert float((at_once - own).abs().max()) > 1e-3


def test_keys_are_left_alone_and_so_is_the_weight_given() -> None:
    own, rows = weight(), FACTS.blocks[0].inner_width
    folded = acting().between(0, 8, scale=0.1).fold(0, own, FACTS.blocks[0].width)
    assert torch.equal(own, weight())
    assert torch.equal(folded[rows : 2 * rows], own[rows : 2 * rows])
    assert not torch.equal(folded[:rows], own[:rows])
    assert not torch.equal(folded[2 * rows :], own[2 * rows :])


def test_the_unfolded_form_adds_what_the_fold_does() -> None:
    own, rows = weight(), FACTS.blocks[1].inner_width
    between = acting().between(12, 3, scale=0.15)
    x = torch.randn(2, 5, FACTS.blocks[1].width, generator=torch.Generator().manual_seed(3))
    dq, dv = between.added(1, x)
    more = F.linear(x, between.fold(1, own, FACTS.blocks[1].width) - own)
    torch.testing.assert_close(dq, more[..., :rows], rtol=0.0, atol=1e-5)
    torch.testing.assert_close(dv, more[..., 2 * rows :], rtol=0.0, atol=1e-5)


def test_degrees_may_be_given_block_by_block() -> None:
    own, width = weight(), FACTS.blocks[0].width
    targets = [4, 9, *[0] * (FACTS.num_blocks - 2)]
    between = acting().between(2, targets, scale=0.1)
    for layer in (0, 1):
        alone = acting().between(2, targets[layer], scale=0.1)
        assert torch.equal(between.fold(layer, own, width), alone.fold(layer, own, width))


def test_as_born_adapters_add_nothing() -> None:
    between = Adapters(FACTS, group_width=2).between(0, 16, scale=0.1)
    assert torch.equal(between.fold(0, weight(), FACTS.blocks[0].width), weight())


@pytest.mark.parametrize(
    "options", [{"source_degree": 2, "rescaled": False}, {"scale": 0.0, "rescaled": False}]
)
def test_there_is_no_fold_at_the_degree_of_the_weights_nor_without_scale(
    options: dict[str, float],
) -> None:
    resolved = ToCom.resolve_options(options)
    tensors = dict(acting().named())
    assert ToCom.weight_fold(FACTS, kept(2), resolved, tensors) is None
    other = {**resolved, "source_degree": 1, "scale": 0.1}
    assert ToCom.weight_fold(FACTS, kept(2), other, tensors) is not None


def test_a_degree_is_the_r_of_deit_and_a_share_of_other_grids() -> None:
    deit, degrees = deit_base(), range(17)
    assert [removed_at(d, deit, rescaled=True) for d in degrees] == list(degrees)
    found = [target_degree(deit, kept(r, deit), rescaled=True) for r in degrees]
    assert found == list(degrees)
    small, rest = FACTS, FACTS.num_patches / (16 * FACTS.num_blocks)
    assert removed_at(16, small, rescaled=True) == round(16 * rest)
    assert target_degree(small, kept(1, small), rescaled=False) == 1.0
    assert target_degree(small, kept(1, small), rescaled=True) == round(1 / rest)


def test_another_schedule_is_the_degree_of_equal_cost() -> None:
    deit = deit_base()
    stages = target_degree(deit, {3: 137, 6: 96, 9: 67}, rescaled=True)
    assert 8.0 < stages < 11.0  # 0.7 at three layers is about 3.0 of 4.6 G, r = 9 the same
    assert stages != round(stages)
    assert target_degree(deit, {}, rescaled=True) == 0.0


def test_a_schedule_beyond_degree_16_is_refused_with_its_degree() -> None:
    with pytest.raises(ConfigError, match=r"degrees 0 to 16.*comes to 17.*keep more tokens"):
        target_degree(deit_base(), kept(17, deit_base()), rescaled=False)


NAME = "blocks.0.attn.v_tocom.adapter_up.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (None, "is missing"),
        (torch.zeros(3, 3), r"has shape \(3, 3\), not"),
        (torch.full((FACTS.blocks[0].inner_width, 32), torch.nan), "holds values that are no"),
    ],
)
def test_adapters_that_do_not_fit_are_refused_by_name(change: Tensor | None, words: str) -> None:
    tensors = {n: w.detach() for n, w in acting().named()}
    tensors.pop(NAME)
    if change is not None:
        tensors[NAME] = change
    with pytest.raises(CheckpointError, match=rf"'{NAME}' of the adapters {words}.*group_width"):
        Adapters.read(FACTS, tensors, group_width=2)


def test_it_is_tome_but_for_the_weights() -> None:
    tome, tocom = get_method("tome"), get_method("tocom")
    assert tocom.reduce is tome.reduce
    assert tocom.needs == tome.needs
    assert tocom.feasible(9, {}) == tome.feasible(9, {})
