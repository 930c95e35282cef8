"""Model objects as people hand them over: another size, another head, other arguments or means."""

import json
import logging
from pathlib import Path

import pytest
import torch
from hf_models import PREPROCESSOR, folder_of, hf_model
from torch import Tensor, nn

import autotok
from autotok.backbones.base import Backbone
from autotok.backbones.loading import as_backbone, load_backbone
from autotok.backbones.timm_vit import timm
from autotok.errors import ConfigError, ExportError, UnsupportedBackbone
from autotok.evaluation.preprocessing import preprocessing_of
from autotok.export.best_yaml import BackboneRef, Bundle
from autotok.export.bundle import load_bundle, save_bundle

SMALL = "vit_tiny_patch16_224"
HALF = autotok.CompressionConfig("tome", (autotok.Reduction(1, keep_ratio=0.5),))


def object_of(**changes: object) -> nn.Module:
    """A small ViT of timm, two blocks deep."""
    return timm.create_model(SMALL, depth=2, img_size=64, num_classes=5, **changes).eval()


def bundled(model: nn.Module, folder: Path) -> tuple[dict[str, object], Tensor, Tensor]:
    """(how it was rebuilt, images, what the model says of them) of a bundle in `folder`/best."""
    compressed = autotok.compress(model, HALF)
    backbone: Backbone = compressed.original
    ready = preprocessing_of(backbone).to_dict()
    images = torch.randn(2, *backbone.facts.image_shape)
    bundle = Bundle(BackboneRef.of(backbone.facts), HALF, ready)
    results = save_bundle(folder / "best", compressed, bundle, images, formats=())
    with torch.no_grad():
        return results["rebuilt"], images, compressed(images)


@pytest.mark.parametrize("side", [32, 96])
def test_images_of_another_size_are_refused_where_tokens_are_to_go(side: int) -> None:
    model = object_of(dynamic_img_size=True)
    compressed = autotok.compress(model, method="evit", keep={1: 0.5})
    with pytest.raises(ConfigError, match=rf"images of {side} x {side} pixels give .*image_size"):
        compressed(torch.zeros(1, 3, side, side))
    sized = autotok.compress(model, method="evit", keep={1: 0.5}, image_size=side)
    kept = sized.forward_tokens(torch.zeros(1, 3, side, side)).num_patches
    assert kept == sized.schedule.kept[-1] == (side // 16) ** 2 // 2


def test_one_of_transformers_runs_at_the_size_of_its_processor(tmp_path: Path) -> None:
    folder = folder_of(hf_model("Dinov2Model"), tmp_path)
    values = PREPROCESSOR | {"crop_size": {"height": 24, "width": 24}}
    (folder / "preprocessor_config.json").write_text(json.dumps(values))
    kind = type(hf_model("Dinov2Model"))
    model = kind.from_pretrained(folder).eval()
    found, named = as_backbone(model), load_backbone(f"hf:{folder}")
    assert found.facts.grid == named.facts.grid == (3, 3)
    assert preprocessing_of(found) == preprocessing_of(named)
    assert as_backbone(model, 48).facts.grid == (6, 6)


def test_a_model_of_nowhere_takes_no_processor_of_the_folder_it_is_run_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_of(hf_model("ViTModel"), tmp_path)
    monkeypatch.chdir(tmp_path)
    assert preprocessing_of(as_backbone(hf_model("ViTModel"))).crop_pct == 0.875


def test_a_replaced_head_tells_how_many_classes_there_are() -> None:
    model = object_of()
    model.head = nn.Linear(192, 7)
    assert as_backbone(model).facts.num_classes == 7
    model.head = nn.Identity()
    assert as_backbone(model).facts.num_classes == 0


def test_a_head_that_says_another_number_than_it_gives_is_refused() -> None:
    model = object_of()
    model.head = nn.Sequential(nn.Linear(192, 16), nn.Linear(16, 7))
    with pytest.raises(UnsupportedBackbone, match="says it has 5 classes and gives 7 outputs; set"):
        as_backbone(model)
    theirs = hf_model("ViTForImageClassification")
    theirs.classifier = nn.Linear(theirs.classifier.in_features, 11)
    with pytest.raises(UnsupportedBackbone, match="gives 11 outputs; set"):
        as_backbone(theirs)


def test_the_name_of_a_model_object_says_which_weights_it_has() -> None:
    assert as_backbone(timm.create_model(SMALL, depth=1)).facts.name == SMALL
    other = as_backbone(timm.create_model("vit_small_patch16_224.dino", depth=1))
    assert other.facts.name == "vit_small_patch16_224.dino"
    model = timm.create_model(SMALL, depth=1, pretrained_cfg_overlay={"tag": "of_ones_own"})
    assert as_backbone(model).facts.name == SMALL


def test_own_means_come_back_with_the_bundle(tmp_path: Path) -> None:
    overlay = {"mean": (0.1, 0.1, 0.1), "std": (0.2, 0.2, 0.2), "crop_pct": 1.0}
    model = timm.create_model(SMALL, pretrained_cfg_overlay=overlay).eval()
    rebuilt, images, expected = bundled(model, tmp_path)
    assert rebuilt["ok"]
    again = load_bundle(tmp_path / "best")
    with torch.no_grad():
        torch.testing.assert_close(again(images), expected)
    assert preprocessing_of(again.original) == preprocessing_of(as_backbone(model))


def test_what_a_name_leaves_open_is_found_out_when_the_bundle_is_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = timm.create_model(SMALL, act_layer="relu").eval()
    with caplog.at_level(logging.WARNING):
        rebuilt, _, _ = bundled(model, tmp_path)
    assert not rebuilt["ok"]
    assert "autotok.load cannot rebuild it, the exported files are right" in caplog.text
    assert "CAREFUL: what name" in (tmp_path / "best" / "README.md").read_text("utf-8")
    assert not json.loads((tmp_path / "best" / "check.json").read_text())["rebuilt"]["ok"]


def test_int8_is_not_calibrated_on_noise(tmp_path: Path) -> None:
    model = autotok.compress(object_of(), HALF)
    with pytest.raises(ExportError, match="int8 is calibrated on images; give `calibration`"):
        autotok.export(model, tmp_path / "m.onnx", precision="int8")
    lowered = autotok.compress(
        object_of(), autotok.CompressionConfig("tome", HALF.reductions, number_format="int8")
    )
    with pytest.raises(ExportError, match="which are not given here"):
        autotok.write_bundle(lowered, tmp_path / "b", checkpoint=None)
