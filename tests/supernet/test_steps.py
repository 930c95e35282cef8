"""One step: which subnets it trains, what it adds up, and what the largest teaches."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_supernet import SPEC, STAGE, tiny_recipe
from torch import Tensor
from torch.nn import functional as F

from autotok.backbones.supernet import AutoFormerSupernet, SupernetView
from autotok.errors import Diverged
from autotok.supernet.batches import Batch
from autotok.supernet.checkpoint import fresh_state
from autotok.supernet.recipe import Distill, Recipe
from autotok.supernet.recipe_file import load_recipe
from autotok.supernet.sampling import draw_subnets
from autotok.supernet.steps import add_gradients, subnet_loss, train_step


@pytest.fixture
def batch() -> Batch:
    torch.manual_seed(1)
    return Batch(torch.randn(4, 1, 8, 8), torch.tensor([3, 1, 4, 1]))


def net() -> AutoFormerSupernet:
    torch.manual_seed(0)
    return AutoFormerSupernet(SPEC)


def read(tmp_path: Path, sampling: str = "sandwich", **changes: Any) -> Recipe:
    return load_recipe(tiny_recipe(tmp_path, stages=[{**STAGE, "sampling": sampling}], **changes))


def test_a_sandwich_is_the_largest_random_ones_and_the_smallest(tmp_path: Path) -> None:
    recipe = read(tmp_path)
    drawn = draw_subnets(SPEC, recipe.default, recipe.stages[0], np.random.default_rng(0))
    assert len(drawn) == 4
    assert drawn[0] == SPEC.largest()
    assert drawn[-1] == SPEC.smallest()
    uniform = read(tmp_path, "uniform")
    assert len(draw_subnets(SPEC, recipe.default, uniform.stages[0], np.random.default_rng(0))) == 1


def test_a_sandwich_step_adds_the_gradients_of_all_its_widths(tmp_path: Path, batch: Batch) -> None:
    recipe, subnets = read(tmp_path), (SPEC.largest(), SPEC.smallest())
    together, apart = net(), net()
    add_gradients(together, recipe, subnets, batch)
    smoothing = recipe.label_smoothing
    for subnet in subnets:
        logits = SupernetView(apart, subnet).train()(batch.images)
        F.cross_entropy(logits, batch.labels, label_smoothing=smoothing).backward()
    for mine, theirs in zip(together.parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-7, rtol=1e-6)
    gradient = together.blocks[0].fc1.weight.grad  # type: ignore[union-attr]
    assert gradient[:18, :12].abs().sum() > 0  # the smallest subnet's own corner
    assert gradient[18:60, 12:20].abs().sum() > 0
    assert gradient[60:].abs().sum() == 0  # beyond the largest choice
    assert together.blocks[2].fc1.weight.grad.abs().sum() > 0  # type: ignore[union-attr]


def by_hand(student: Tensor, teacher: Tensor, labels: Tensor, weight: float, t: float) -> Tensor:
    total = torch.zeros((), dtype=student.dtype)
    for s, z, label in zip(student, teacher, labels, strict=True):
        p, q = (z / t).softmax(-1), (s / t).softmax(-1)
        kl = (p * (p / q).log()).sum()
        hard = -(0.9 + 0.01) * s.log_softmax(-1)[label]
        hard = hard - 0.01 * (s.log_softmax(-1).sum() - s.log_softmax(-1)[label])
        total = total + weight * t * t * kl + (1 - weight) * hard
    return total / len(labels)


@pytest.mark.parametrize(("weight", "t"), [(1.0, 1.0), (0.3, 2.5), (0.0, 1.0)])
def test_the_distillation_loss_equals_the_definition(weight: float, t: float) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 5, 10)
    labels = torch.tensor([0, 1, 2, 3, 9])
    got = subnet_loss(
        student, labels, label_smoothing=0.1, distill=Distill(weight, t), teacher=teacher
    )
    torch.testing.assert_close(got, by_hand(student, teacher, labels, weight, t))


@pytest.mark.parametrize("sampling", ["sandwich", "uniform"])
def test_the_largest_teaches_the_others_and_gets_no_gradient_for_it(
    tmp_path: Path, batch: Batch, sampling: str
) -> None:
    recipe = read(tmp_path, sampling, distill={"weight": 1.0})
    small, together, apart = SPEC.smallest(), net(), net()
    subnets = (SPEC.largest(), small) if sampling == "sandwich" else (small,)
    add_gradients(together, recipe, subnets, batch)
    largest = SupernetView(apart, SPEC.largest()).train()(batch.images)
    if sampling == "sandwich":
        subnet_loss(largest, batch.labels, label_smoothing=0.05).backward()
    student = SupernetView(apart, small).train()(batch.images)
    by_hand(student, largest.detach(), batch.labels, 1.0, 1.0).backward()
    for mine, theirs in zip(together.parameters(), apart.parameters(), strict=True):
        assert (mine.grad is None) == (theirs.grad is None)
        if mine.grad is not None:
            torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-6, rtol=1e-4)


def test_distillation_brings_the_smallest_closer_to_the_largest(
    tmp_path: Path, batch: Batch
) -> None:
    state = fresh_state(read(tmp_path, distill={"weight": 1.0}, weight_decay=0.0))
    largest, smallest = (
        SupernetView(state.supernet, s).eval() for s in (SPEC.largest(), SPEC.smallest())
    )
    with torch.no_grad():
        state.supernet.head.weight.mul_(20.0)  # logits worth learning
        teacher = largest(batch.images)

    def gap() -> float:
        with torch.no_grad():
            student = smallest(batch.images)
        return float(
            subnet_loss(
                student, batch.labels, label_smoothing=0.0, distill=Distill(1.0), teacher=teacher
            )
        )

    before, frozen = gap(), copy.deepcopy(state.supernet.head.state_dict())
    for _ in range(30):
        state.optimizer.zero_grad()
        loss = subnet_loss(
            smallest(batch.images),
            batch.labels,
            label_smoothing=0.0,
            distill=Distill(1.0),
            teacher=teacher,
        )
        loss.backward()
        state.optimizer.step()
    assert gap() < 0.2 * before
    assert not torch.equal(frozen["weight"], state.supernet.head.weight)


def test_a_step_moves_the_weights_and_their_average(tmp_path: Path, batch: Batch) -> None:
    recipe = read(tmp_path, warmup_steps=0)
    state = fresh_state(recipe)
    before = copy.deepcopy(state.supernet.state_dict())

    class Same:
        def batch(self, step: int, rng: np.random.Generator) -> Batch:
            return batch

    loss, correct = train_step(state, recipe, Same())
    assert loss > 0
    assert 0 <= correct <= 1
    head, mean = state.supernet.head.weight, state.ema.head.weight
    assert not torch.equal(before["head.weight"], head)
    torch.testing.assert_close(mean, before["head.weight"].lerp(head, 0.9), atol=1e-7, rtol=0)


def test_a_step_without_a_number_changes_no_weight(tmp_path: Path, batch: Batch) -> None:
    recipe = read(tmp_path, warmup_steps=0)
    state = fresh_state(recipe)
    before = copy.deepcopy((state.supernet.state_dict(), state.ema.state_dict()))
    batch.images[0, 0, 0, 0] = torch.inf

    class Bad:
        def batch(self, step: int, rng: np.random.Generator) -> Batch:
            return batch

    with pytest.raises(Diverged, match=r"diverged at step 0 \(loss nan\); give stage '.*' of the"):
        train_step(state, recipe, Bad())
    for old, model in zip(before, (state.supernet, state.ema), strict=True):
        assert all(torch.equal(value, old[name]) for name, value in model.state_dict().items())
