import dataclasses

import numpy as np
import pytest
import torch
from hand import reducer, tokens
from torch import Tensor

from autotok.backbones.attention import attention
from autotok.config import Primitive
from autotok.errors import IncompatibleMethod
from autotok.methods import Site, get_method
from autotok.methods import gtp as module
from autotok.methods.gtp import GTP, SELECTIONS
from autotok.searching.space.parameters import Parameter
from autotok.searching.space.search_space import SearchSpace
from autotok.testing import synthetic_facts
from autotok.tokens import AttentionRule, Needs, Taps, Tokens

PATCHES = torch.tensor([[10.0], [20], [30], [40]])
LINE = {"graph": "spatial", "selection": "cls_mean"}


def start(method: GTP, patches: Tensor = PATCHES, grid: tuple[int, int] = (1, 4)) -> Tokens:
    placed = dataclasses.replace(tokens(patches), grid=grid)
    return method.before_blocks(placed, Taps())


def gtp(keep: int, **options: bool | int | float | str) -> GTP:
    method = reducer("gtp", entering=4, keep=keep, options=options)
    assert isinstance(method, GTP)
    return method


def row(*scores: float) -> Taps:
    return Taps({"cls_attention": torch.tensor([[[0.0, *scores]]])})


def test_a_gone_patch_passes_its_share_to_its_neighbours() -> None:
    method = gtp(3, alpha=0.5, **LINE)
    out = method.reduce(start(method), row(4, 1, 3, 2), 3)  # by score: 0, 2, 3
    # patch 1 (20) goes; degrees along the line are 1, 2, 2, 1
    first, second = 0.5 / 2**0.5, 0.5 / 2
    assert out.x[0, :, 0].tolist() == pytest.approx([-1, 10 + 20 * first, 30 + 20 * second, 40])
    assert out.sizes()[0].tolist() == pytest.approx([1 + first, 1 + second, 1])


def test_the_graph_follows_its_tokens() -> None:
    method = gtp(3, **LINE)
    out = method.reduce(start(method), row(4, 1, 3, 2), 3)  # order: 0, 2, 3
    graph = out.extras["gtp.graph"].values[0]
    assert (graph > 0).tolist() == [
        [False, False, False],
        [False, False, True],
        [False, True, False],
    ]
    again = method.reduce(out, row(1, 2, 3), 2)
    assert again.extras["gtp.graph"].values.shape == (1, 2, 2)


def test_sizes_stay_unset_without_proportional_attention() -> None:
    method = gtp(3, proportional=False, **LINE)
    assert method.reduce(start(method), row(4, 1, 3, 2), 3).size is None
    assert not method.proportional_attention


def test_touching_patches_are_joined_on_any_grid() -> None:
    method = gtp(3, graph="spatial")
    joined = method.joined(start(method, torch.zeros(6, 1), (2, 3))).extras["gtp.graph"].values[0]
    assert (joined > 0).sum(dim=1).tolist() == [3, 5, 3, 3, 5, 3]
    assert joined[0, 1].item() == pytest.approx((3 * 5) ** -0.5)


def test_each_patch_is_joined_to_those_that_look_most_alike() -> None:
    looks = torch.tensor([[1.0, 0], [1, 0.1], [0, 1], [0.2, 1]])
    method = gtp(3, graph="semantic", num_neighbours=1)
    graph = method.joined(start(method, looks)).extras["gtp.graph"].values[0]
    assert graph.argmax(dim=1).tolist() == [1, 0, 3, 2]
    assert graph.sum().item() == pytest.approx(4)


def test_mixed_is_the_union() -> None:
    looks = torch.tensor([[1.0, 0], [0, 1], [0, 1], [1, 0]])
    counts = []
    for graph in ("spatial", "semantic", "mixed"):
        method = gtp(3, graph=graph, num_neighbours=1)
        joined = method.joined(start(method, looks)).extras["gtp.graph"].values
        counts.append(int((joined > 0).sum()))
    assert counts == [6, 4, 8]  # 0-3 is new, 1-2 touch anyway


def test_a_patch_with_no_neighbour_changes_nothing() -> None:
    method = gtp(1, **LINE)
    out = method.joined(start(method, torch.ones(1, 1), (1, 1)))
    assert out.extras["gtp.graph"].values.tolist() == [[[0.0]]]


def test_the_recommended_rank_multiplies_own_and_received_attention() -> None:
    attention = torch.zeros(1, 2, 5, 5)
    attention[0, 0, 1:, 1:] = torch.diag(torch.tensor([0.1, 0.4, 0.2, 0.3]))
    attention[0, 1, 0, 1:] = torch.tensor([0.9, 0.0, 0.5, 0.1])
    method = gtp(2, graph="spatial")
    assert method.needs == Needs.ATTENTION
    out = method.reduce(start(method), Taps({"attention": attention}), 2)
    # greatest over heads: own 0.1 0.4 0.2 0.3, received 0.9 0.4 0.5 0.3, products 9 16 10 9 (/100)
    assert out.extras["gtp.graph"].values.shape == (1, 2, 2)
    assert out.coords is None
    kept = out.x[0, 1:, 0]
    assert kept[0] > 20
    assert kept[1] > 30
    assert kept[1] < 40


def test_sparsity_is_asked_of_every_block_and_of_the_class_row() -> None:
    method = gtp(3, sparsity=0.5, **LINE)
    assert start(method).rule.sparsity == 0.5
    assert method.needs == Needs.ATTENTION
    assert gtp(3, **LINE).needs == Needs.CLS_ATTENTION
    assert gtp(3, selection="image_max").needs == Needs.COLUMN_MEANS


def test_a_class_selection_needs_a_class_token() -> None:
    method = get_method("gtp")
    facts = synthetic_facts(0)
    options = method.resolve_options({"selection": "cls_max"})
    with pytest.raises(IncompatibleMethod, match="needs a class token"):
        method.resolve_needs(facts, options)
    assert method(Site(1, 4, 3, facts), method.resolve_options({})).proportional_attention


@pytest.mark.parametrize(("share", "zeros"), [(0.8, 843), (0.9, 421), (0.5, 2111), (1.0, 0)])
def test_sparse_maps_lose_as_many_entries_as_the_authors_float_arithmetic_says(
    share: float, zeros: int
) -> None:
    """0.2 of 65 * 65 is 844.99.. in floats: all below the 844th smallest entry go."""
    rule = AttentionRule(sparsity=share)
    found = Tokens(torch.zeros(1, 65, 8), 1, (8, 8), rule=rule)
    draw = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, 65, 4, generator=draw).unbind(0)
    _, taps = attention(q, k, v, found, Needs.ATTENTION)
    assert (taps.attention == 0).sum(dim=(2, 3)).tolist() == [[zeros, zeros]]


def ranked(selection: str, attention: Tensor) -> list[int]:
    """The order in which a selection leaves all patches but the last, with one prefix token."""
    method = gtp(3, selection=selection, graph="spatial", proportional=False, alpha=0.0)
    out = method.reduce(start(method), Taps({"attention": attention.float()}), 3)
    return [int(value) // 10 - 1 for value in out.patches[0, :, 0].tolist()]


def by_the_sheet(selection: str, heads: np.ndarray) -> np.ndarray:
    """Scores of patches from maps (H, N, N), token by token."""
    count = heads.shape[1] - 1
    scores = np.zeros(count)
    if selection == "sum_max":
        for patch in range(count):
            own = max(head[patch + 1, patch + 1] for head in heads)
            scores[patch] = own + max(head[:, patch + 1].sum() for head in heads)
        return scores
    joined = heads.max(axis=0) if selection == "cosine_max" else heads.mean(axis=0)
    rows = [joined[patch + 1] / np.linalg.norm(joined[patch + 1]) for patch in range(count)]
    for patch in range(count):
        scores[patch] = -sum(float(rows[patch] @ row) for row in rows)
    return scores


@pytest.mark.parametrize("selection", ["sum_max", "cosine_max", "cosine_mean"])
def test_rankings_by_sum_and_by_cosine_follow_their_equations(selection: str) -> None:
    for seed in range(5):
        draw = torch.Generator().manual_seed(seed)
        attention = torch.randn(1, 2, 5, 5, generator=draw).double().mul(2).softmax(dim=-1)
        scores = by_the_sheet(selection, attention[0].numpy())
        assert ranked(selection, attention) == np.argsort(-scores).tolist()[:3]


@pytest.mark.parametrize("selection", ["cosine_max", "cosine_mean"])
def test_the_first_of_two_patches_stays_as_their_cosines_are_one(selection: str) -> None:
    method = gtp(1, **(LINE | {"selection": selection}))
    for seed in range(40):
        draw = torch.Generator().manual_seed(seed)
        attention = torch.randn(1, 2, 3, 3, generator=draw).mul(2).softmax(dim=-1)
        placed = start(method, PATCHES[:2], (1, 2))
        out = method.reduce(placed, Taps({"attention": attention}), 1)
        assert float(out.x[0, 1, 0]) >= 10.0
        assert float(out.x[0, 1, 0]) < 15.0  # of 10 and 20


def test_cosines_of_a_half_precision_model_tell_patches_apart() -> None:
    means = torch.tensor([[0.95, 0.7, 0.9, 0.7]])
    steps = module._but_for_rounding(means.half())
    assert torch.isfinite(steps).all()
    assert steps.argsort(dim=1, stable=True).tolist() == [[1, 3, 2, 0]]


def test_a_random_selection_is_its_seeds_and_needs_no_attention() -> None:
    orders = []
    for seed in range(4):
        method = gtp(2, selection="random", seed=seed, graph="spatial", alpha=0.0)
        assert method.needs == Needs.NONE
        placed = start(method)
        orders.append(method.reduce(placed, Taps(), 2).patches[0, :, 0].tolist())
        assert method.reduce(placed, Taps(), 2).patches[0, :, 0].tolist() == orders[-1]
        two = dataclasses.replace(placed, x=torch.cat([placed.x.neg(), placed.x]))
        extras = {
            name: dataclasses.replace(extra, values=extra.values.expand(2, -1, -1))
            for name, extra in placed.extras.items()
        }
        both = method.reduce(dataclasses.replace(two, extras=extras), Taps(), 2)
        assert both.patches[1, :, 0].tolist() == orders[-1]
    assert len({tuple(order) for order in orders}) > 1


def test_a_search_takes_the_ablations_only_where_its_space_names_them() -> None:
    facts = synthetic_facts(1)
    asked: dict[str, tuple[Primitive, ...]] = {}

    def choose(parameter: Parameter) -> Primitive:
        asked[parameter.name] = parameter.choices
        return parameter.choices[0] if parameter.choices else parameter.cast(parameter.low or 0)

    SearchSpace(methods=("gtp",)).walk(choose, facts)
    assert asked["gtp.selection"] == SELECTIONS
    named = {"gtp": {"selection": ["random", "cosine_max"]}}
    SearchSpace(methods=("gtp",), options=named).walk(choose, facts)
    assert asked["gtp.selection"] == ("random", "cosine_max")
