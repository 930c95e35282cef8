"""Weights under their authors' names."""

import pytest
import torch

from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone
from autotok.compression.official import load_official
from autotok.config import CompressionConfig, Reduction
from autotok.methods.asvit import ASViT


def test_thresholds_are_found_under_the_authors_names() -> None:
    layers = (Reduction(1, num_keep=12), Reduction(3, num_keep=6))
    names = {f"score_predictor.{stage}.keep_threshold": 0.1 + stage for stage in range(2)}
    packed = {"keep_threshold": torch.tensor([0.1, 1.1])}
    for given in ({name: torch.tensor(value) for name, value in names.items()}, packed):
        model = compress_backbone(tiny_backbone(), CompressionConfig("asvit", layers))
        load_official(model, given)
        found = [reducer.get_parameter("threshold").item() for reducer in model.reducers.values()]
        assert found == pytest.approx([0.1, 1.1])
    assert ASViT.official_name("score_predictor.in_conv.keep_threshold") is None
    assert ASViT.official_name("head.weight") is None
