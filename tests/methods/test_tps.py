import math

import numpy as np
import pytest
import torch
from hand import angles, attended, reducer, tokens
from learned import decided, kept_by_stage, model, photos, some_masks, taught
from torch import Tensor

from autotok.compression.model import CompressedViT
from autotok.methods import get_method
from autotok.methods.tps import squeeze, squeeze_masked
from autotok.testing import synthetic_facts

LOOKS = angles(0, 90, 10, 80)
SCORES = torch.tensor([[0.2, 0.9, 0.1, 0.3]])


def folded(kept: Tensor, guest: Tensor, degrees: float, temperature: float = 1.0) -> Tensor:
    weight = math.exp(math.cos(math.radians(degrees)) / temperature)
    return (math.e * kept + weight * guest) / (math.e + weight)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_pruned_tokens_join_the_most_similar_kept_one(temperature: float) -> None:
    out = squeeze(tokens(LOOKS), torch.tensor([[0.5, 0.9, 0.1, 0.3]]), 2, temperature)
    expected = torch.stack(
        [
            folded(LOOKS[1], LOOKS[3], 10, temperature),
            folded(LOOKS[0], LOOKS[2], 10, temperature),
        ]
    )
    torch.testing.assert_close(out.patches[0], expected, rtol=0, atol=1e-5)
    assert out.size is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("low", [True, False])
def test_any_temperature_of_its_range_gives_means_of_tokens(low: bool, dtype: torch.dtype) -> None:
    (option,) = (o for o in get_method("etps").options if o.name == "temperature")
    ends = {True: option.low, False: option.high}
    heat = float(ends[low] or 0.0)
    start = tokens(LOOKS.to(dtype))
    out = squeeze(start, SCORES.to(dtype), 2, heat).patches
    exact = squeeze(tokens(LOOKS.double()), SCORES.double(), 2, heat).patches
    torch.testing.assert_close(
        out.double(), exact, rtol=0, atol=1e-5 if dtype.itemsize > 2 else 0.01
    )
    before, after = torch.ones(1, 4), torch.tensor([[0.0, 1.0, 0.0, 1.0]]).requires_grad_()
    if dtype is torch.float32:  # training is not in float16
        masked = squeeze_masked(start.patches, before, after, heat)
        torch.testing.assert_close(masked[:, [1, 3]], out, rtol=0, atol=1e-5)
        masked.sum().backward()
        assert after.grad is not None
        assert bool(after.grad.isfinite().all())


def test_both_forms_of_the_squeeze_agree() -> None:
    torch.manual_seed(0)
    x, kept = torch.randn(1, 7, 6), torch.tensor([[1.0, 0, 1, 0, 0, 1, 0]])
    before = torch.tensor([[1.0, 1, 1, 1, 0, 1, 1]])
    masked = squeeze_masked(x, before, kept, 1.0)
    alive = before[0] > 0.5
    short = squeeze(tokens(x[0, alive]), kept[:, alive] - torch.arange(6) * 1e-3, 3, 1.0)
    torch.testing.assert_close(masked[0, kept[0] > 0.5], short.patches[0])
    dropped = kept[0] < 0.5
    torch.testing.assert_close(masked[0, dropped], x[0, dropped])


def test_nothing_left_to_join_leaves_tokens_alone() -> None:
    x = torch.randn(1, 4, 6)
    masked = squeeze_masked(x, torch.ones(1, 4), torch.zeros(1, 4), 1.0)
    torch.testing.assert_close(masked, x)


def test_training_form_equals_inference_with_the_same_decisions() -> None:
    made = model("dtps", (1, 10), (2, 5))
    images = photos(made)
    with torch.no_grad():
        expected = made(images)
        with decided(*kept_patches(made, images)):
            masked = made.train()(images)
    torch.testing.assert_close(masked, expected, rtol=0, atol=1e-4)


def kept_patches(made: CompressedViT, images: Tensor) -> list[Tensor]:
    """(B, N0) masks of who stayed, from the scores: squeezed tokens hold several patches."""
    verdicts: list[Tensor] = []
    handles = [
        reducer.predictor.register_forward_hook(lambda *given: verdicts.append(given[-1]))
        for reducer in made.reducers.values()
    ]
    made(images)
    for handle in handles:
        handle.remove()
    kept, masks = None, []
    for scores, site in zip(verdicts, made.schedule.sites, strict=True):
        best = scores[..., 0].topk(site.num_keep, dim=1).indices
        kept = best if kept is None else kept.gather(1, best)
        masks.append(torch.zeros(len(images), site.facts.num_patches).scatter(1, kept, 1.0))
    return masks


def test_the_task_teaches_every_predictor() -> None:
    made = model("dtps", (1, 10), (2, 5)).train()
    with decided(*some_masks(made, 2)):
        taught(made, made(photos(made)).square().sum())


def test_etps_ranks_by_class_attention() -> None:
    method = reducer("etps", entering=4, keep=2)
    out = method.reduce(tokens(LOOKS), attended("cls_attention", [0.0, *SCORES[0].tolist()]), 2)
    weights = [math.e, *(math.exp(math.cos(math.radians(d))) for d in (80, 70))]
    both = sum(w * x for w, x in zip(weights, (LOOKS[3], LOOKS[0], LOOKS[2]), strict=True))
    expected = torch.stack([LOOKS[1], both / sum(weights)])
    torch.testing.assert_close(out.patches[0], expected, rtol=0, atol=1e-5)


def test_similarities_of_pruned_with_kept_are_all_it_multiplies() -> None:
    method, facts = get_method("etps"), synthetic_facts(1)
    entering, keep = np.array([10]), np.array([7])
    own = method.overhead_macs(facts, 0, entering, keep, method.resolve_options({}))
    assert own.tolist() == [3 * 7 * facts.blocks[0].width]


def test_masks_of_pruned_patches_are_traced() -> None:
    made = model("dtps", (1, 10), (2, 5))
    stages = kept_by_stage(made, photos(made))
    assert bool(stages[-1].all())  # squeezed patches live on in the kept ones
