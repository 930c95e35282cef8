"""Quality: labels, agreement and KL, tallies that add up, models without a head."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autotok.backbones.base import Backbone
from autotok.backbones.timm_vit import TimmViT
from autotok.backbones.tiny import tiny_backbone, tiny_vit
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig, Reduction
from autotok.errors import DataError, NonFiniteOutput, UsageError
from autotok.evaluation.accuracy import Evaluator, default_batch_size
from autotok.evaluation.data import ArrayData
from autotok.evaluation.intervals import wilson
from autotok.evaluation.preprocessing import Preprocessing
from autotok.tokens import Taps, Tokens

TOPK = CompressionConfig("topk", (Reduction(1, keep_ratio=0.5),))


def images(count: int = 40, *, labelled: bool = True) -> ArrayData:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, 10, count).tolist() if labelled else None
    return ArrayData("noise", pixels, labels, Preprocessing(3, 32, 32, crop_pct=1.0))


def headless() -> Backbone:
    model = tiny_vit()
    model.reset_classifier(0)
    return TimmViT(model.eval(), name="headless")


class Counting(nn.Module):
    """A model that remembers how many images it saw."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.seen = 0

    def forward(self, batch: Tensor) -> Tensor:
        self.seen += len(batch)
        output: Tensor = self.model(batch)
        return output


def test_top1_counts_right_answers() -> None:
    backbone, data = tiny_backbone(), images()
    quality = Evaluator(backbone, data).evaluate(backbone, 0, 40).quality()
    batch, labels = data.batch(range(40))
    assert labels is not None
    with torch.inference_mode():
        hits = int((backbone(batch).argmax(dim=-1) == labels).sum())
    assert quality.metric == "top1"
    assert quality.value == quality.top1_pct == 100 * hits / 40
    assert (quality.low, quality.high) == tuple(100 * end for end in wilson(hits, 40))
    assert quality.agreement_pct is None


def test_the_uncompressed_model_agrees_with_itself() -> None:
    backbone = tiny_backbone()
    for metric, best in (("agreement", 100.0), ("kl", 0.0)):
        evaluator = Evaluator(backbone, images(labelled=False), metric=metric)
        compressed = compress_backbone(backbone, CompressionConfig())
        quality = evaluator.evaluate(compressed, 0, 20).quality()
        assert quality.value == pytest.approx(best, abs=1e-9)
        assert evaluator.reference(0, 20).quality().value == pytest.approx(best, abs=1e-9)


def test_agreement_and_kl_follow_their_definitions() -> None:
    backbone, data = tiny_backbone(), images(labelled=False)
    compressed = compress_backbone(backbone, TOPK)
    evaluator = Evaluator(backbone, data, metric="kl", seed=3)
    quality = evaluator.evaluate(compressed, 0, 24).quality()
    batch, _ = data.batch(data.subset(24, 3))
    with torch.inference_mode():
        p, q = backbone(batch), compressed(batch)
    kl = nn.functional.kl_div(
        q.log_softmax(-1), p.log_softmax(-1), log_target=True, reduction="batchmean"
    )
    assert quality.kl == pytest.approx(float(kl), rel=1e-4)
    assert quality.low < quality.value < quality.high
    same = (p.argmax(-1) == q.argmax(-1)).float().mean()
    assert quality.agreement_pct == pytest.approx(100 * float(same))
    assert quality.kl > 0


def test_top1_has_agreement_and_divergence_beside_it_where_they_are_asked_for() -> None:
    backbone, data = tiny_backbone(), images()
    compressed = compress_backbone(backbone, TOPK)
    alone, beside = Evaluator(backbone, data), Evaluator(backbone, data)
    beside.compares = True
    plain = alone.evaluate(compressed, 0, 24)
    found = beside.evaluate(compressed, 0, 24)
    assert (found.hits, found.correct, found.kls) == (plain.hits, plain.correct, ())
    assert plain.quality().kl is None
    kl = Evaluator(backbone, data, metric="kl").evaluate(compressed, 0, 24).quality()
    assert found.quality().kl == kl.value > 0.0
    assert found.quality().agreement_pct == kl.agreement_pct
    parts = [beside.evaluate(compressed, start, start + 1) for start in range(24)]
    assert sum(reversed(parts[1:]), parts[0]).kl_sum == pytest.approx(found.kl_sum, rel=1e-4)
    assert (parts[2] + (parts[0] + parts[1])).kl_sum == (parts[0] + parts[1] + parts[2]).kl_sum


def test_tallies_of_two_parts_add_up_to_the_whole() -> None:
    backbone = tiny_backbone()
    evaluator = Evaluator(backbone, images(), metric="agreement")
    compressed = compress_backbone(backbone, TOPK)
    whole = evaluator.evaluate(compressed, 0, 30).quality()
    first, rest = evaluator.evaluate(compressed, 0, 11), evaluator.evaluate(compressed, 11, 30)
    parts = (first + rest).quality()
    assert parts.num_images == whole.num_images == 30
    assert (parts.value, parts.top1_pct) == (whole.value, whole.top1_pct)
    assert parts.kl == pytest.approx(whole.kl, rel=1e-5)


@pytest.mark.parametrize("make", [tiny_backbone, headless])
def test_the_batch_size_does_not_change_the_result(make: Callable[[], Backbone]) -> None:
    backbone = make()
    compressed = compress_backbone(backbone, TOPK)
    found = [
        Evaluator(backbone, images(), metric="agreement", batch_size=size)
        .evaluate(compressed, 0, 33)
        .quality()
        for size in (1, 7, 33)
    ]
    assert {quality.value for quality in found} == {found[0].value}
    assert [q.kl for q in found] == pytest.approx([found[0].kl] * 3, rel=1e-4)


def test_a_higher_fidelity_runs_only_new_images_and_the_reference_once() -> None:
    counting = Counting(tiny_backbone())
    backbone = tiny_backbone()
    evaluator = Evaluator(backbone, images(labelled=False), batch_size=4)
    seen: list[int] = []
    evaluator.evaluate(counting, 0, 8)
    evaluator.evaluate(counting, 8, 20, on_images=seen.append)
    assert counting.seen == 20
    assert seen == [4, 4, 4]
    kept = len(evaluator.answers.outputs)
    evaluator.evaluate(counting, 0, 20)
    assert len(evaluator.answers.outputs) == kept == 20


def test_a_model_without_a_head_agrees_on_nearest_neighbours() -> None:
    backbone, data = headless(), images(labelled=False)
    evaluator = Evaluator(backbone, data, seed=1)
    compressed = compress_backbone(backbone, TOPK)
    quality = evaluator.evaluate(compressed, 0, 40).quality()
    batch, _ = data.batch(data.subset(40, 1))
    with torch.inference_mode():
        plain = nn.functional.normalize(backbone(batch), dim=-1)
        small = nn.functional.normalize(compressed(batch), dim=-1)
    hide = torch.eye(40) * 10
    same = ((plain @ plain.T - hide).argmax(-1) == (small @ plain.T - hide).argmax(-1)).float()
    assert quality.value == pytest.approx(100 * float(same.mean()))
    assert quality.description.startswith("agreement of nearest neighbours among 40 images")
    assert evaluator.reference(0, 40).quality().value == 100.0


def test_too_few_images_for_neighbours_are_refused() -> None:
    with pytest.raises(DataError, match="too few to compare the features"):
        Evaluator(headless(), images(2, labelled=False))


class Broken(nn.Module):
    def forward(self, batch: Tensor) -> Tensor:
        return torch.full((len(batch), 10), float("nan"))


def test_a_model_that_gives_nan_fails_with_the_reason() -> None:
    with pytest.raises(NonFiniteOutput, match="gives NaN or infinity on image"):
        Evaluator(tiny_backbone(), images()).evaluate(Broken(), 0, 4)


def test_evaluation_leaves_the_training_mode_as_it_was() -> None:
    backbone = tiny_backbone()
    compressed = compress_backbone(backbone, CompressionConfig()).train()
    Evaluator(tiny_backbone(), images(), metric="kl").evaluate(compressed, 0, 2)
    assert compressed.training


def test_results_say_whether_the_model_was_finetuned() -> None:
    evaluator = Evaluator(tiny_backbone(), images())
    retrained = compress_backbone(tiny_backbone(), CompressionConfig(mode="retrain"))
    assert evaluator.evaluate(retrained, 0, 2).quality().finetuned
    assert not evaluator.evaluate(tiny_backbone(), 0, 2).quality().finetuned


def test_positions_beyond_the_data_are_left_out() -> None:
    assert Evaluator(tiny_backbone(), images()).evaluate(tiny_backbone(), 38, 99).num_images == 2


@pytest.mark.parametrize(
    ("metric", "message"), [("top1", "has none"), ("top5", "did you mean 'top1'")]
)
def test_a_metric_that_cannot_be_is_refused(metric: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Evaluator(tiny_backbone(), images(labelled=False), metric=metric)


def test_larger_token_counts_take_smaller_batches() -> None:
    small = default_batch_size(tiny_backbone().facts)
    model = tiny_vit(1, image_size=224, patch_size=16)
    large = default_batch_size(TimmViT(model).facts)
    assert small == 32
    assert 1 <= large < small


def order(data: ArrayData, seed: int) -> Sequence[int]:
    return data.subset(len(data), seed)


def test_the_seed_decides_which_images_are_seen() -> None:
    data = images()
    assert order(data, 0) != order(data, 1)
    backbone = tiny_backbone()
    first, again, other = (
        Evaluator(backbone, data, metric="kl", seed=seed).evaluate(
            compress_backbone(backbone, TOPK), 0, 6
        )
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def limited(backbone: Backbone, most: int) -> Backbone:
    """The backbone on a device whose memory ends at `most` images."""
    embed = backbone.embed

    def within(batch: Tensor, *rest: Any, **given: Any) -> tuple[Tokens, Taps]:
        if len(batch) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return embed(batch, *rest, **given)

    backbone.embed = within  # type: ignore[method-assign]
    return backbone


@pytest.mark.parametrize(
    ("make", "metric"), [(tiny_backbone, "top1"), (tiny_backbone, "knn"), (headless, "agreement")]
)
def test_where_memory_ends_batches_come_again_in_halves(
    make: Callable[[], Backbone], metric: str
) -> None:
    found = []
    for backbone in (make(), limited(make(), 3)):
        evaluator = Evaluator(backbone, images(), metric=metric, batch_size=20)
        found.append(evaluator.evaluate(compress_backbone(backbone, TOPK), 0, 24).quality().value)
    assert evaluator.batch_size == 2
    assert found[1] == pytest.approx(found[0])


def test_memory_too_small_for_one_image_is_said_as_it_is() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        Evaluator(limited(headless(), 0), images(), metric="agreement").reference(0, 4)
