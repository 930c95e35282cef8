"""A quality of the user's own: a function of a model and a batch."""

import own_qualities
import pytest
import torch
from test_accuracy import TOPK, images, limited

from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone
from autotok.compression.model import CompressedViT
from autotok.config import CompressionConfig, Reduction
from autotok.counting.adaptive import metered
from autotok.errors import ConfigError
from autotok.evaluation.own_quality import OwnQuality, make_evaluator
from autotok.evaluation.side_by_side import LoadedBatch


def evaluator(asked: object, metric: str = "own"):  # type: ignore[no-untyped-def]
    return make_evaluator(
        tiny_backbone(),
        images(labelled=False),
        metric=metric,
        seed=1,
        precision="float32",
        own=OwnQuality.of(asked),
        training=images,
    )


@torch.no_grad()
@pytest.mark.parametrize("name", ["confidence", "confidence_of_one"])
@pytest.mark.parametrize("metric", ["own", "own_loss"])
def test_the_quality_is_the_mean_of_what_the_function_says_of_each_image(
    name: str, metric: str
) -> None:
    own = evaluator(f"own_qualities:{name}", metric)
    model = compress_backbone(own.backbone, TOPK)
    tally = own.evaluate(model, 0, 8) + own.evaluate(model, 8, 14)
    batch, _ = own.data.batch(own.data.subset(14, 1))
    sure = model(batch).softmax(dim=-1).amax(dim=-1)
    assert tally.values == pytest.approx(sure.tolist(), rel=1e-4)
    quality = tally.quality()
    assert (quality.metric, getattr(quality, metric)) == (metric, quality.value)
    assert quality.value == pytest.approx(float(sure.mean()), rel=1e-4)
    assert quality.low < quality.value < quality.high


def test_the_function_sees_the_compressed_model_and_which_images_these_are() -> None:
    seen: list[tuple[object, list[int]]] = []

    def watching(model: torch.nn.Module, batch: LoadedBatch) -> list[int]:
        assert not model.training
        seen.append((model, batch.indices))
        return batch.indices

    own = evaluator(watching)
    config = CompressionConfig("ats", (Reduction(1, keep_ratio=0.5),))
    model = compress_backbone(own.backbone, config)
    tally = own.evaluate(metered(model), 0, 5)
    assert tally.values == tuple(own.data.subset(5, 1))
    assert len(tally.macs) == 5
    assert seen[0][0] is own.backbone  # tried before anything is judged
    assert isinstance(seen[-1][0], CompressedViT)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("confidence", "'confidence' cannot be used: give it as module:function"),
        ("not_there:f", "'not_there:f' cannot be used: .*No module named.*folder of PYTHONPATH"),
        ("own_qualities:absent", "'own_qualities:absent' cannot be used: .*absent"),
        ("own_qualities:NOT_A_FUNCTION", "NOT_A_FUNCTION' cannot be used: it is no function"),
        ("<function>", "'<function>' was a Python object.*resume from Python with evaluator="),
        (3, "evaluator is 3; give a function of a model and a batch"),
    ],
)
def test_what_is_no_function_is_told_in_a_sentence(asked: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        OwnQuality.of(asked)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", r"it gives nan on image \d+ of 'noise'; it must give finite numbers"),
        ("words", r"it gives a str on image \d+ of 'noise'; it must give a number per image"),
        ("nothing", r"it gives a NoneType on image \d+ of 'noise'; it must give a number"),
        ("broken", r"it fails on image \d+ of 'noise': KeyError: 'masks'"),
    ],
)
def test_what_is_no_number_is_told_before_anything_is_judged(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"'own_qualities:{name}' cannot be used: {message}"):
        evaluator(f"own_qualities:{name}")


def test_another_number_of_numbers_than_images_is_told() -> None:
    own = evaluator(own_qualities.two)  # it fits the two images that it is tried on
    with pytest.raises(ConfigError, match="it gives 2 numbers for 5 images; it must give one per"):
        own.evaluate(own.backbone, 0, 5)


def test_where_memory_ends_the_function_is_asked_again_of_halves() -> None:
    own = evaluator("own_qualities:confidence")
    own.batch_size = 8
    whole = own.evaluate(own.backbone, 0, 8)
    limited(own.backbone, 3)
    assert own.evaluate(own.backbone, 0, 8).values == pytest.approx(whole.values, rel=1e-4)
    limited(own.backbone, 0)
    with pytest.raises(torch.OutOfMemoryError):
        own.evaluate(own.backbone, 0, 8)
