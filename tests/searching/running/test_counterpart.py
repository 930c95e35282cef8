"""What does not compare is told in a sentence, and what does compare is let through."""

import dataclasses

import pytest
import torch
from torch import nn

import autotok
from autotok.backbones.base import Backbone
from autotok.backbones.timm_vit import TimmViT
from autotok.backbones.tiny import tiny_backbone, tiny_vit
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig, Reduction
from autotok.errors import ConfigError
from autotok.report.export_report import export_report
from autotok.searching.running.counterpart import require_counterpart, require_same_patches
from autotok.searching.running.question import Question
from autotok.searching.running.session import build_problem
from autotok.searching.space.search_space import SearchSpace

TOPK = CompressionConfig("topk", (Reduction(1, keep_ratio=0.5),))


def headless(**given: int) -> Backbone:
    model = tiny_vit(**given)
    model.reset_classifier(0)
    return TimmViT(model.eval(), name="headless")


@pytest.mark.parametrize(
    ("other", "metric", "words"),
    [
        (tiny_vit(num_classes=5), "agreement", "answers in 5 classes, the .* in 10 classes"),
        (tiny_vit(num_classes=5), "auto", "in 5 classes.*; give the model it came from"),
        (tiny_vit(image_size=64), "kl", "3 channels and 64 x 64 pixels, the .* 32 x 32"),
        (tiny_vit(image_size=64), "top1", "64 x 64 pixels"),
        (tiny_vit(width=96), "feature", "patches of 96 features.*; choose agreement or kl"),
        (tiny_vit(patch_size=16), "feature", "2 x 2 patches .* 4 x 4 patches"),
        (headless().model, "knn", "in 48 features, pooled as 'cls', the .* in 10 classes"),
    ],
)
def test_another_model_that_does_not_fit_is_told_by_name(
    other: nn.Module, metric: str, words: str
) -> None:
    model = autotok.compress(tiny_backbone(), TOPK)
    with pytest.raises(ConfigError, match=f"uncompressed model 'VisionTransformer' .*{words}"):
        autotok.evaluate(model, "digits", metric=metric, num_images=4, uncompressed=other)


def test_features_of_another_width_are_no_neighbours() -> None:
    model = compress_backbone(headless(), TOPK)
    with pytest.raises(ConfigError, match=r"96 features.*48 features"):
        require_counterpart(model, headless(width=96), "agreement")


def test_a_larger_model_of_the_same_classes_is_a_counterpart() -> None:
    model = autotok.compress(tiny_backbone(), TOPK)
    require_counterpart(model, TimmViT(tiny_vit(width=96)), "agreement")
    require_counterpart(model, TimmViT(tiny_vit(num_classes=5)), "own")


def test_a_model_that_resizes_images_takes_those_of_another_size() -> None:
    model = autotok.compress(tiny_backbone(), dataclasses.replace(TOPK, image_size=16))
    require_counterpart(model, TimmViT(tiny_vit(image_size=64)), "agreement")
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 10)
    with pytest.raises(ConfigError, match=r"4 x 4 patches .* 2 x 2 patches"):
        autotok.evaluate(model, "digits", metric="feature", num_images=4)


def test_a_file_is_not_judged_beside_what_does_not_fit(tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = autotok.compress(tiny_backbone(), dataclasses.replace(TOPK, image_size=16))
    large = TimmViT(tiny_vit(image_size=64))
    with pytest.raises(ConfigError, match="64 x 64 pixels"):
        export_report(model, tmp_path / "m.onnx", data="digits", judged=2, uncompressed=large)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"image_sizes": (16, 32)}, "image size 16 has other patches; leave that out"),
        (
            {"backbone": "autoformer_demo", "subnet": "search"},
            "a subnet .* wide has other features",
        ),
        ({"formats": ("float32", "int8")}, "number format int8 is judged from a file"),
    ],
)
def test_a_search_by_features_refuses_what_has_others(asked: dict[str, object], words: str) -> None:
    question = Question(**{"backbone": "tiny", "data": "digits", "quality": "feature", **asked})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=f"quality 'feature' compares .*{words}"):
        build_problem(question)


def test_a_models_own_image_size_is_no_other() -> None:
    require_same_patches(SearchSpace("own", image_sizes=(32,)), tiny_backbone().facts)
