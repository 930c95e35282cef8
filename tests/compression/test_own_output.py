"""Compressed models of transformers, called as theirs are."""

import copy
import dataclasses
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "backbones"))

from hf_models import hf_model, pixels

import autotok
from autotok.backbones.loading import as_backbone
from autotok.compression.compress import compress_backbone
from autotok.compression.own_output import OwnOutputViT
from autotok.config import CompressionConfig, Reduction
from autotok.exits import ExitPolicy

HALF = CompressionConfig("tome", (Reduction(0, num_keep=11), Reduction(1, num_keep=6)))


@torch.no_grad()
def test_by_keyword_the_own_class_answers_and_images_alone_give_one_tensor() -> None:
    model = autotok.compress(hf_model("ViTForImageClassification"), HALF)
    assert isinstance(model, OwnOutputViT)
    inputs = {"pixel_values": pixels()}
    assert torch.equal(model(**inputs).logits, model(pixels()))
    with pytest.raises(TypeError, match="give pixel_values"):
        model()
    with pytest.raises(TypeError, match="give them as pixel_values"):
        model(pixels(), full_length=True)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["ViTForImageClassification", "CLIPForImageClassification"])
def test_exits_answer_by_keyword_as_they_do_by_images(kind: str) -> None:
    early = ExitPolicy((0, 1), ("linear", "linear"), threshold=(-1.0, -1.0))
    backbone = as_backbone(hf_model(kind))
    model = compress_backbone(backbone, dataclasses.replace(HALF, exits=early))
    answer = model(pixel_values=pixels())
    assert torch.equal(answer.logits, model(pixels()))
    assert not torch.allclose(answer.logits, autotok.compress(hf_model(kind), HALF)(pixels()))
    assert answer.keys() == {"logits"}
    model.train()  # where none stops
    assert torch.equal(model(pixel_values=pixels()).logits, model(pixels()))


def test_it_trains_and_is_copied_as_any_other() -> None:
    model = copy.deepcopy(autotok.compress(hf_model("CLIPForImageClassification"), HALF)).train()
    model(pixel_values=pixels()).logits.sum().backward()
    assert model.backbone.weights.get_parameter("classifier.weight").grad is not None


@pytest.mark.slow
def test_exports_are_of_the_one_tensor(tmp_path: Path) -> None:
    for kind in ("SiglipVisionModel", "DINOv3ViTModel", "BeitForImageClassification"):
        model = autotok.compress(hf_model(kind), HALF)
        assert autotok.export(model, tmp_path / "model.onnx").max_rel_diff < 1e-5
