import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hand import reducer, tokens
from learned import Said, decided, kept_by_stage, model, photos, some_masks, taught

from autotok.methods import Site, get_method
from autotok.methods.learning import LossContext
from autotok.methods.predictors import PredictedKeep
from autotok.testing import synthetic_facts
from autotok.tokens import Taps

GOLDEN = Path(__file__).parents[1] / "golden" / "prunelosses_A.npz"
PATCHES = torch.tensor([[1.0], [4], [-2], [3]])


def said(name: str = "dynamicvit", keep: int = 2) -> PredictedKeep:
    method = reducer(name, entering=4, keep=keep)
    assert isinstance(method, PredictedKeep)
    method.predictor = Said()  # type: ignore[assignment]
    return method


def test_the_best_stay_by_falling_score() -> None:
    out = said().reduce(tokens(PATCHES), Taps(), 2)
    assert out.x[0, :, 0].tolist() == [-1, 4, 3]


def test_training_masks_instead_and_what_was_dropped_stays_dropped() -> None:
    method = said().train()
    start = tokens(PATCHES)
    with decided(torch.tensor([[1.0, 0, 1, 1]]), torch.tensor([[0.0, 1, 1, 1]])):
        first = method.reduce(start, Taps(), 3)
        second = method.reduce(first, Taps(), 2)
    assert torch.equal(first.x, start.x)
    assert first.mask is not None
    assert second.mask is not None
    assert first.mask.round().tolist() == [[1, 0, 1, 1]]
    assert second.mask.round().tolist() == [[0, 0, 1, 1]]


def test_training_form_equals_inference_with_the_same_decisions() -> None:
    made = model("dynamicvit", (1, 10), (2, 5))
    images = photos(made)
    with torch.no_grad():
        expected = made(images)
        with decided(*kept_by_stage(made, images)):
            masked = made.train()(images)
    torch.testing.assert_close(masked, expected, rtol=0, atol=1e-4)


def test_the_task_alone_teaches_every_predictor() -> None:
    made = model("dynamicvit", (1, 10), (2, 5)).train()
    with decided(*some_masks(made, 2)):
        taught(made, made(photos(made)).square().sum())


@pytest.mark.parametrize("name", ["dynamicvit", "dtps"])
def test_the_ratio_loss_equals_the_authors(name: str) -> None:
    facts = dataclasses.replace(synthetic_facts(1), grid=(10, 100))
    with np.load(GOLDEN) as arrays:
        masks = [torch.from_numpy(arrays[f"mask{stage}"]) for stage in range(3)]
        expected = float(arrays["dynamicvit.mse_token=True"][2])
    total = 0.0
    for stage, (mask, keep) in enumerate(zip(masks, (700, 490, 343), strict=True)):
        method = get_method(name)
        site = Site(stage, 1000, keep, facts, stage, (0, 1, 2))
        one = method(site, method.resolve_options({}))
        assert isinstance(one, PredictedKeep)
        one.decision = mask
        loss = one.extra_loss(LossContext(tokens(PATCHES), torch.zeros(1, 10)))
        assert loss is not None
        total += float(loss)
    assert total == pytest.approx(2 / 3 * expected, rel=2e-5)


def test_there_is_no_loss_before_training_and_none_after_deployment() -> None:
    method = said()
    context = LossContext(tokens(PATCHES), torch.zeros(1, 10))
    assert method.extra_loss(context) is None
    method.train()
    method.reduce(tokens(PATCHES), Taps(), 2)
    assert method.extra_loss(context) is not None
    method.deploy()
    assert method.extra_loss(context) is None


def test_official_names_are_known() -> None:
    method = get_method("dynamicvit")
    name = "score_predictor.2.out_conv.4.bias"
    assert method.official_name(name) == (2, "predictor.out_conv.4.bias")
    assert method.official_name("blocks.2.norm1.weight") is None
