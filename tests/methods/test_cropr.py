import dataclasses

import numpy as np
import pytest
import torch
from hand import reducer, tokens
from learned import model, photos, taught
from torch.nn import functional as F

from autotok.compression.schedule import realise
from autotok.config import CompressionConfig, Primitive, Reduction
from autotok.counting.counter import count_macs
from autotok.counting.macs import cost
from autotok.errors import ConfigError, IncompatibleMethod
from autotok.methods import get_method
from autotok.methods.cropr import Cropr
from autotok.methods.learning import LossContext
from autotok.methods.registry import check_compatible
from autotok.testing import synthetic_facts
from autotok.tokens import Taps

OPTIONS: dict[str, Primitive] = {
    "num_queries": 3,
    "num_heads": 4,
    "q_proj": True,
    "k_proj": True,
    "pre_attn_norm": True,
}


def cropr(keep: int = 2, **options: Primitive) -> Cropr:
    torch.manual_seed(0)
    method = reducer("cropr", entering=4, keep=keep, options=options)
    assert isinstance(method, Cropr)
    for parameter in method.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return method


def test_the_best_by_the_query_stay_by_falling_score() -> None:
    method = cropr(llf=False)
    patches = torch.zeros(4, 16)
    patches[:, 0] = torch.tensor([1.0, 4, -2, 3])
    with torch.no_grad():
        method.cross_attn.queries.zero_()[0, 0, 0] = 2.0
    out = method.reduce(tokens(patches), Taps(), 2)
    assert out.x[0, :, 0].tolist() == [-1, 4, 3]


def test_one_vector_scores_as_all_queries_and_heads_do() -> None:
    method, x = cropr(**OPTIONS), torch.randn(2, 4, 16)
    own = method.cross_attn
    q = own.q(own.queries).unflatten(-1, (4, 4)).transpose(1, 2)  # (1, H, M, D)
    k = own.k(own.attn_norm(x)).unflatten(-1, (4, 4)).transpose(1, 2)
    expected = (q @ k.transpose(-2, -1)).sum(dim=(1, 2))
    torch.testing.assert_close(own.scores(x), expected, rtol=1e-4, atol=1e-5)


def test_fused_tokens_return_to_their_places_as_they_were() -> None:
    made = model("cropr", (0, 9), (1, 4))
    tokens_out = made.forward_tokens(photos(made), trace=True)
    assert tokens_out.raster
    assert tokens_out.num_patches == made.backbone.facts.num_patches
    assert made.schedule.attention == (16, 9, 4, 16)
    assert made.schedule.readout == 16
    without = model("cropr", (0, 9), (1, 4), options={"llf": False})
    assert without.schedule.attention == (16, 9, 4, 4)
    assert without.forward_tokens(photos(made)).num_patches == 4


def test_training_and_inference_give_the_same_logits() -> None:
    made = model("cropr", (0, 9), (1, 4), options=OPTIONS)
    images = photos(made)
    expected = made(images)
    torch.testing.assert_close(made.train()(images), expected)


@pytest.mark.parametrize("options", [{}, {**OPTIONS, "num_heads": 3}])
def test_auxiliary_heads_learn_from_labels_and_leave_the_backbone_alone(
    options: dict[str, Primitive],
) -> None:
    made = model("cropr", (0, 9), (1, 4), options=options).train()
    logits = made(photos(made))
    context = LossContext(tokens(torch.zeros(4, 2)), logits, labels=torch.tensor([0, 1, 2]))
    loss = sum(one.extra_loss(context) for one in made.reducers.values())
    taught(made, loss)
    assert all(parameter.grad is None for parameter in made.backbone.parameters())


def test_the_loss_is_the_cross_entropy_or_without_labels_the_teachers() -> None:
    method = cropr().train()
    torch.manual_seed(1)
    start = tokens(torch.randn(4, 16))
    start = dataclasses.replace(start, coords=torch.tensor([[[0, j] for j in range(4)]]))
    method.reduce(start, Taps(), 2)
    assert method.answer is not None
    context = LossContext(start, torch.zeros(1, 10), labels=torch.tensor([3]))
    expected = F.cross_entropy(method.answer, torch.tensor([3]))
    torch.testing.assert_close(method.extra_loss(context), expected)
    agreeing = LossContext(start, torch.zeros(1, 10), teacher_logits=method.answer.detach() + 5.0)
    assert method.extra_loss(agreeing).item() == pytest.approx(0.0, abs=1e-5)
    assert method.extra_loss(LossContext(start, torch.zeros(1, 10))) is None


def test_deployment_leaves_the_scorer_and_the_logits() -> None:
    made = model("cropr", (0, 9), (1, 4))
    images = photos(made)
    expected = made(images)
    torch.testing.assert_close(made.deploy()(images), expected)
    width = made.backbone.facts.blocks[0].width
    assert sum(p.numel() for p in made.reducers.parameters()) == 2 * width
    method = get_method("cropr")
    chosen = method.resolve_options({**OPTIONS, "num_heads": 1})
    one = reducer("cropr", entering=4, keep=2, options=chosen)
    one.deploy()
    declared = method.overhead_params(synthetic_facts(1), chosen)
    assert sum(p.numel() for p in one.parameters()) == declared


def test_a_reduction_behind_the_last_block_is_not_undone() -> None:
    found = realise(CompressionConfig("cropr", (Reduction(5, num_keep=7),)), synthetic_facts(1))
    assert found.attention == (15,) * 6
    assert found.readout == 7
    several = get_method("cropr").occupancy(
        (1, 5), np.array([[9, 9], [9, 3]]), synthetic_facts(1), {"llf": True}
    )
    assert several.readout.tolist() == [15, 3]


def test_what_it_cannot_do_is_refused() -> None:
    headless = dataclasses.replace(synthetic_facts(1), num_classes=0)
    with pytest.raises(IncompatibleMethod, match="needs a classifier"):
        check_compatible(get_method("cropr"), headless)
    with pytest.raises(ConfigError, match="does not divide the width 16"):
        cropr(num_heads=3)


def test_official_names_are_known() -> None:
    method = get_method("cropr")
    assert method.official_name("cropr.3.cross_attn.queries") == (3, "cross_attn.queries")
    assert method.official_name("head.weight") is None


def test_costs_are_exact_even_behind_the_last_block() -> None:
    made = model("cropr", (1, 9), (3, 4))
    assert count_macs(made) == cost(made.backbone.facts, made.config).macs
