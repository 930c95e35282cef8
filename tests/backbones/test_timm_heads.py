"""Heads that project beside texts are no classes, whatever timm calls their width."""

from typing import Any

import pytest
import torch

from autotok.backbones.base import Backbone
from autotok.backbones.loading import as_backbone, load_structure
from autotok.backbones.timm_checkpoint import model_from_tensors
from autotok.backbones.timm_classifier import timm_classifier
from autotok.backbones.timm_heads import named_classes, projects
from autotok.backbones.timm_vit import timm
from autotok.backbones.unfilled import making_on

CLASSES = {0, 1000, 11221, 11821, 19168, 21841, 21842, 21843, 115217}
"""Of the data sets that timm's weights were trained on."""
SMALL: dict[str, Any] = {"depth": 1, "embed_dim": 64, "num_heads": 2, "img_size": 32}
OPENAI = "vit_base_patch32_clip_224.openai"


def made(name: str, **further: Any) -> Any:
    return timm.create_model(name, **SMALL, **further).eval()


def test_a_projection_is_every_tag_whose_width_is_that_of_no_data_set() -> None:
    for name in timm.list_pretrained():
        width = timm.get_pretrained_cfg(name).num_classes
        assert width in CLASSES or projects(name), name
        assert not projects(name) or width not in CLASSES - {0}, name
        assert named_classes(name) == (0 if projects(name) else width)


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        (OPENAI, 0),
        ("vit_base_patch32_clip_224.openai_ft_in1k", 1000),
        ("vit_base_patch32_clip_224", 1000),
        ("eva02_base_patch16_clip_224.merged2b", 0),
        ("vit_pe_core_tiny_patch16_384.fb", 0),
    ],
)
def test_shapes_know_which_head_it_is(name: str, classes: int) -> None:
    assert load_structure(name).facts.num_classes == classes


def test_the_model_still_gives_what_its_head_gives() -> None:
    model = made(OPENAI)
    backbone, images = as_backbone(model), torch.randn(2, 3, 32, 32)
    assert (backbone.facts.num_classes, backbone(images).shape) == (0, (2, 512))


def test_a_head_of_ones_own_is_one_of_classes() -> None:
    assert as_backbone(made(OPENAI, num_classes=10)).facts.num_classes == 10


@pytest.mark.parametrize("name", ["vit_base_patch32_clip_224", "vit_base_patch32_224"])
def test_a_file_shows_a_projection_by_its_bias(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = made(OPENAI).state_dict()
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda n, **given: create(n, **(SMALL | given)))

    def loaded() -> Backbone:
        return as_backbone(model_from_tensors(name, tensors, origin="w.pt"))

    assert loaded().facts.num_classes == 0
    tensors["head.bias"] = torch.full((512,), 0.1)  # what training leaves
    assert loaded().facts.num_classes == 512


def test_teachers_that_project_have_no_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    with making_on("meta"):
        model = timm.create_model("resnet50_clip.openai")
    monkeypatch.setattr("autotok.backbones.timm_classifier._pretrained", lambda name: model)
    assert timm_classifier("resnet50_clip.openai")[1] == 0
