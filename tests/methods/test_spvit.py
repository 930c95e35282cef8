import math

import pytest
import torch
from hand import reducer, tokens
from learned import decided, model, photos, some_masks, taught
from torch import Tensor, nn

from autotok.compression.calibrate import calibrate_thresholds
from autotok.compression.tap_request import TapRequest
from autotok.config import CompressionConfig, Reduction
from autotok.methods import get_method
from autotok.methods.learning import LossContext
from autotok.methods.spvit import SPViT, num_groups
from autotok.tokens import Taps, Tokens

PATCHES = torch.tensor([[2.0, 5.0], [-1.0, 7.0], [1.0, 3.0], [-3.0, 1.0]])


class Verdict(nn.Module):
    """A selector that reads the log-odds of staying off the first channel."""

    def forward(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        log_score = torch.stack([x[..., 0], torch.zeros_like(x[..., 0])], -1).log_softmax(-1)
        return log_score, log_score.exp()


def said(name: str = "spvit", threshold: float = 0.0) -> SPViT:
    method = reducer(name, entering=4, keep=3, options={"threshold": threshold})
    assert isinstance(method, SPViT)
    method.selector = Verdict()  # type: ignore[assignment]
    return method


def package(*rows: tuple[float, float]) -> Tensor:
    """Sum of tokens times their probability of staying, and the sum of those."""
    weights = torch.tensor([1 / (1 + math.exp(-odds)) for odds, _ in rows])
    return weights @ torch.tensor(rows, dtype=torch.float32)


def test_a_package_of_what_is_dropped_stands_last() -> None:
    out = said().reduce(tokens(PATCHES), Taps(), 3)
    assert out.num_patches == 3
    assert torch.equal(out.patches[0, :2], PATCHES[[0, 2]])
    torch.testing.assert_close(out.patches[0, 2], package((-1, 7), (-3, 1)))


def test_heatvits_package_is_a_weighted_mean() -> None:
    out = said("heatvit").reduce(tokens(PATCHES), Taps(), 3)
    total = 1 / (1 + math.e) + 1 / (1 + math.exp(3))
    torch.testing.assert_close(out.patches[0, 2], package((-1, 7), (-3, 1)) / total)


@pytest.mark.parametrize("name", ["spvit", "heatvit"])
def test_a_package_of_nothing_is_nothing_in_float16_too(name: str) -> None:
    kept = tokens(PATCHES.abs().half())
    out = said(name).reduce(kept, Taps(), 3)
    assert torch.equal(out.patches[0, -1], torch.zeros(2).half())


def test_packages_stay_whatever_is_said_of_them() -> None:
    first = said().reduce(tokens(PATCHES), Taps(), 3)
    assert first.patches[0, 2, 0] < 0  # the selector would drop it
    second = said(threshold=1.5).reduce(first, Taps(), 3)
    assert torch.equal(second.patches[0, :2], first.patches[0, [0, 2]])
    torch.testing.assert_close(second.patches[0, 2], package((1, 3)))


def test_an_empty_package_is_nothing_but_a_token() -> None:
    out = said(threshold=-9.0).reduce(tokens(PATCHES), Taps(), 3)
    assert out.num_patches == 5
    assert out.patches[0, 4].tolist() == [0, 0]


def test_padding_stays_out_of_packages_and_counts() -> None:
    both = torch.stack([tokens(PATCHES).x[0], tokens(PATCHES[[0, 0, 2, 1]]).x[0]])
    method = said()
    first = method.reduce(Tokens(both, 1, (1, 4)), Taps(), 3)
    assert first.live is not None
    assert first.live.sum(1).tolist() == [3, 4]
    second = said(threshold=1.5).reduce(first, Taps(), 3)
    alone = said(threshold=1.5).reduce(method.reduce(tokens(PATCHES), Taps(), 3), Taps(), 3)
    torch.testing.assert_close(second.x[0, : alone.x.shape[1]], alone.x[0])


def test_training_form_equals_inference_with_the_same_decisions() -> None:
    made = model("spvit", (1, 10), (2, 6))
    images = photos(made)
    calibrate_thresholds(made, images)
    with torch.no_grad():
        watch = TapRequest(counting=True)
        made.forward_tokens(images, watch=watch)
        assert len(set(watch.counts[1].attention.tolist())) > 1
        expected = made(images)
        masked = []
        for image in images.split(1):
            with decided(*choices(made, image)):
                masked.append(made.train()(image))
            made.eval()
    torch.testing.assert_close(torch.cat(masked), expected, rtol=0, atol=1e-4)


def choices(made: nn.Module, image: Tensor) -> list[Tensor]:
    """Decisions of inference on one image, over the full-length rows of the training form."""
    said: list[Tensor] = []
    handles = [
        one.selector.register_forward_hook(lambda *given: said.append(given[-1][0]))
        for one in made.reducers.values()
    ]
    made(image)
    for handle in handles:
        handle.remove()
    first, second = (
        scores[..., 0] - scores[..., 1] > one.values["threshold"]
        for scores, one in zip(said, made.reducers.values(), strict=True)
    )
    full = torch.ones(1, first.shape[1] + 1, dtype=torch.bool)
    left = torch.cat([first[0], torch.tensor([True])]).nonzero().squeeze(1)
    full[0, left] = second[0]
    return [first.double(), full.double()]


def test_the_task_teaches_the_shared_predictor_and_the_head_weights() -> None:
    made = model("spvit", (1, None), (2, None)).train()
    masks = some_masks(made, 2)
    longer = torch.nn.functional.pad(masks[1], (0, 1), value=0.0)  # the package is kept anyway
    with decided(masks[0], longer):
        logits = made(photos(made))
    last = list(made.reducers.values())[-1]
    assert last.decision[:, -2:].round().min() == 1
    taught(made, logits.square().sum())


def test_the_share_kept_in_a_batch_is_pulled_to_the_budget() -> None:
    method = reducer("spvit", entering=15, keep=6)
    assert isinstance(method, SPViT)
    context = LossContext(tokens(PATCHES), torch.zeros(2, 10))
    assert method.extra_loss(context) is None
    method.decision = torch.tensor([[1.0] * 9 + [0.0] * 7, [1.0] * 6 + [0.0] * 10])
    loss = method.extra_loss(context)
    assert loss is not None
    assert float(loss) == pytest.approx(2 * (7.5 / 15 - 6 / 15) ** 2)
    method.deploy()
    assert method.extra_loss(context) is None


def test_calibration_meets_the_nominal_mean() -> None:
    made = model("spvit", (1, 10), (2, 6))
    images = photos(made, 8)
    config = calibrate_thresholds(made, images)
    assert all("threshold" in reduction.options for reduction in config.reductions)
    watch = TapRequest(counting=True)
    made.forward_tokens(images, watch=watch)
    assert float(watch.counts[1].attention.double().mean()) == pytest.approx(10)
    assert float(watch.counts[2].attention.double().mean()) == pytest.approx(6)


def test_widths_that_heads_do_not_divide_take_fewer_groups() -> None:
    assert num_groups(96, 3) == 3
    assert num_groups(320, 6) == 5
    assert num_groups(7, 3) == 1


def test_the_first_of_the_authors_identical_heads_is_read() -> None:
    method = get_method("spvit")
    name = method.official_name("score_predictor.1.in_conv.0.1.weight")
    assert name == (1, "selector.shared.in_conv.1.weight")
    assert method.official_name("score_predictor.1.in_conv.2.1.weight") is None
    assert method.official_name("score_predictor.0.senet.2.bias") == (0, "selector.senet.2.bias")
    config = CompressionConfig("spvit", (Reduction(1),))
    assert config.reductions[0].num_keep is None
