"""Cosines of features and shared neighbours: by hand, by definition, as qualities."""

import math
from pathlib import Path

import pytest
import torch
from test_accuracy import headless, images
from torch.nn import functional as F

import autotok
from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig, Reduction
from autotok.counting.adaptive import metered
from autotok.errors import ConfigError, DataError
from autotok.evaluation import reference_answers as module
from autotok.evaluation.accuracy import Evaluator
from autotok.evaluation.intervals import mean_interval
from autotok.evaluation.reference_answers import shared_neighbours
from autotok.evaluation.shared_tensors import SharedTensors
from autotok.export.file_model import FileModel

MERGED = CompressionConfig("tome", (Reduction(1, keep_ratio=0.6),))


@torch.no_grad()
def test_the_feature_quality_is_the_mean_cosine_of_dense_features_and_of_the_class_token() -> None:
    backbone, data = tiny_backbone(), images(12, labelled=False)
    model = compress_backbone(backbone, MERGED)
    quality = Evaluator(backbone, data, metric="feature", seed=2).evaluate(model, 0, 9).quality()
    batch, _ = data.batch(data.subset(9, 2))
    patches = F.cosine_similarity(
        autotok.dense(model)(batch), autotok.dense(backbone)(batch), dim=1
    )
    ends = [
        m.forward_tokens(batch) for m in (model, compress_backbone(backbone, CompressionConfig()))
    ]
    classes = F.cosine_similarity(
        *(backbone.token_features(tokens)[:, 0] for tokens in ends), dim=-1
    )
    each = (50 * (patches.flatten(1).mean(dim=1) + classes)).tolist()
    assert quality.value == quality.feature_pct == pytest.approx(sum(each) / 9, rel=1e-4)
    low, high = mean_interval(math.fsum(each), math.fsum(x * x for x in each), 9)
    assert (quality.low, quality.high) == pytest.approx((low, min(100.0, high)), rel=1e-4)
    assert quality.agreement_pct is not None  # beside it


@pytest.mark.parametrize("metric", ["feature", "knn"])
def test_the_uncompressed_model_has_all_of_its_features_and_neighbours(metric: str) -> None:
    for backbone in (tiny_backbone(), headless()):
        evaluator = Evaluator(backbone, images(40), metric=metric)
        whole = compress_backbone(backbone, CompressionConfig())
        for tally in (evaluator.evaluate(whole, 0, 20), evaluator.reference(0, 20)):
            assert tally.quality().value == pytest.approx(100.0, abs=1e-4)


@pytest.mark.parametrize("metric", ["feature", "knn"])
def test_tallies_of_parts_add_up_whatever_the_batch(metric: str) -> None:
    backbone = headless()
    model = compress_backbone(backbone, MERGED)
    evaluator = Evaluator(backbone, images(40), metric=metric, batch_size=7)
    whole = evaluator.evaluate(model, 0, 30)
    other = Evaluator(backbone, images(40), metric=metric, batch_size=4)
    parts = other.evaluate(model, 0, 11) + other.evaluate(model, 11, 30)
    assert parts.values == pytest.approx(whole.values, rel=1e-4)
    assert len(whole.values) == 30
    assert parts.quality().value == pytest.approx(whole.quality().value, rel=1e-4)
    assert whole.quality().value < 100.0


def test_features_that_no_longer_fit_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny_backbone()
    model = compress_backbone(backbone, MERGED)
    kept = Evaluator(backbone, images(), metric="feature").evaluate(model, 0, 20)
    monkeypatch.setattr(module, "LIMIT_BYTES", 0)
    assert Evaluator(backbone, images(), metric="feature").evaluate(model, 0, 20) == kept


def test_a_method_of_counts_by_image_is_judged_by_features_with_its_costs() -> None:
    backbone = tiny_backbone()
    config = CompressionConfig("ats", (Reduction(1, keep_ratio=0.5),))
    evaluator = Evaluator(backbone, images(), metric="feature")
    tally = evaluator.evaluate(metered(compress_backbone(backbone, config)), 0, 6)
    assert len(tally.macs) == len(tally.values) == 6


def test_neighbours_are_shared_whatever_their_order() -> None:
    one = torch.tensor([[9.0, 8.0, 7.0, 1.0, -math.inf]])
    two = torch.tensor([[7.0, 9.0, 1.0, 8.0, -math.inf]])
    assert shared_neighbours(one, two, 2) == [50.0]
    assert shared_neighbours(one, two, 3) == pytest.approx([100 * 2 / 3])


def test_too_few_images_for_neighbours_are_told() -> None:
    with pytest.raises(
        DataError, match=r"holds 29 images, too few to compare neighbours.*least 30"
    ):
        Evaluator(tiny_backbone(), images(29), metric="knn")


def test_an_exported_file_has_no_features_inside() -> None:
    backbone = tiny_backbone()
    evaluator = Evaluator(backbone, images(), metric="feature")
    with pytest.raises(ConfigError, match="an exported file does not give; judge files by agr"):
        evaluator.evaluate(FileModel(backbone, CompressionConfig()), 0, 4)


def test_one_image_gives_no_interval_of_a_mean() -> None:
    backbone = tiny_backbone()
    tally = Evaluator(backbone, images(), metric="feature").reference(0, 1)
    with pytest.raises(DataError, match="how far a mean cosine of features may be off; give 2"):
        tally.quality()


def test_processes_that_share_a_file_run_the_uncompressed_model_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, data = tiny_backbone(), images(12, labelled=False)
    alone, first, second = (Evaluator(backbone, data, metric="kl", seed=2) for _ in range(3))
    like = first.reference_output(0)
    first.answers.shared = SharedTensors.create(tmp_path / "outputs", len(data), like)
    second.answers.shared = SharedTensors.open(tmp_path / "outputs")
    model = compress_backbone(backbone, MERGED)
    expected = alone.evaluate(model, 0, 12)
    assert first.evaluate(model, 0, 12) == expected
    monkeypatch.setattr(second, "_uncompressed", lambda *_: pytest.fail("it was run again"))
    second.answers._run = second._uncompressed
    assert second.evaluate(model, 0, 12) == expected


@pytest.mark.parametrize("metric", ["feature", "knn"])
def test_agreement_and_divergence_beside_a_quality_are_of_the_classes(metric: str) -> None:
    backbone, data = tiny_backbone(), images(40)
    model = compress_backbone(backbone, MERGED)
    beside, plain = (
        Evaluator(backbone, data, metric=m).evaluate(model, 0, 24).quality()
        for m in (metric, "agreement")
    )
    assert beside.agreement_pct == plain.value
    assert beside.kl == plain.kl
