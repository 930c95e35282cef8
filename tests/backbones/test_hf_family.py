"""Folders and repositories of Hugging Face: read, written, refused."""

import json
from pathlib import Path
from typing import cast

import pytest
import torch
from hf_models import CONFIGS, PREPROCESSOR, folder_of, hf_model, pixels, transformers
from safetensors.torch import load_file, save_file
from small_vits import drawn

import autotok
from autotok.backbones import hf_family
from autotok.backbones.hf_vit import HFViT
from autotok.backbones.loading import as_backbone, load_backbone, load_structure, save_backbone
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig, Reduction
from autotok.errors import AutotokError, CheckpointError, ConfigError, UnsupportedBackbone
from autotok.evaluation.preprocessing import preprocessing_of
from autotok.export.best_yaml import BackboneRef, Bundle
from autotok.export.bundle import bundle_structure, load_bundle, save_bundle

HALF = CompressionConfig("tome", (Reduction(0, num_keep=11), Reduction(1, num_keep=6)))


@pytest.mark.parametrize("kind", CONFIGS)
@torch.no_grad()
def test_a_folder_as_transformers_writes_it_is_read_and_written_again(
    kind: str, tmp_path: Path
) -> None:
    model = hf_model(kind)
    folder = folder_of(model, tmp_path / "model")
    found = load_backbone(f"hf:{folder}")
    assert isinstance(found, HFViT)
    assert type(found.model) is type(model)
    expected = found._primary(model(pixels()))
    torch.testing.assert_close(found(pixels()), expected, atol=1e-5, rtol=1e-5)
    assert load_structure(str(folder)).facts.blocks == found.facts.blocks
    again = tmp_path / "weights.safetensors"
    save_backbone(found, again, name=f"hf:{folder}")
    (folder / "model.safetensors").unlink()
    alone = load_backbone(f"hf:{folder}", checkpoint=again)
    assert torch.equal(alone(pixels()), found(pixels()))
    assert alone.facts == found.facts


UNPOOLED = {
    "ViTModel": "ViTForMaskedImageModeling",
    "DeiTModel": "DeiTForMaskedImageModeling",
    "BeitModel": "BeitForMaskedImageModeling",
}
"""Classes that are made without a pooler, by the one that they are run as."""


@pytest.mark.parametrize("kind", UNPOOLED)
@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_a_folder_without_a_pooler_is_read_and_written_again(
    kind: str, masked: bool, tmp_path: Path
) -> None:
    config, options = CONFIGS[kind]
    made = getattr(transformers, config)(**options)
    if masked:
        whole = drawn(getattr(transformers, UNPOOLED[kind])(made))
        model = getattr(whole, whole.base_model_prefix)
    else:
        whole = model = drawn(getattr(transformers, kind)(made, add_pooling_layer=False))
    folder = folder_of(whole, tmp_path / "model")
    found = load_backbone(f"hf:{folder}")
    expected = model(pixels()).last_hidden_state[:, 0]
    torch.testing.assert_close(found(pixels()), expected, atol=1e-5, rtol=1e-5)
    again = tmp_path / "weights.safetensors"
    save_backbone(found, again, name=f"hf:{folder}")
    alone = load_backbone(f"hf:{folder}", checkpoint=again)
    assert found.facts == alone.facts
    assert load_structure(f"hf:{folder}").facts == found.facts


def test_half_a_pooler_is_not_none(tmp_path: Path) -> None:
    folder = folder_of(hf_model("ViTModel"), tmp_path)
    tensors = load_file(folder / "model.safetensors")
    del tensors["pooler.dense.bias"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"'pooler\.dense\.bias' is missing"):
        load_backbone(f"hf:{folder}")


@torch.no_grad()
def test_a_file_with_the_names_of_the_repositories_is_read_as_a_checkpoint(tmp_path: Path) -> None:
    model = hf_model("ViTForImageClassification")
    folder = folder_of(model, tmp_path)
    official = load_file(folder / "model.safetensors")
    assert "vit.encoder.layer.0.attention.attention.query.weight" in official
    moved = tmp_path / "elsewhere.safetensors"
    save_file(official, moved)
    found = load_backbone(f"hf:{folder}", checkpoint=moved)
    torch.testing.assert_close(found(pixels()), model(pixels()).logits, atol=1e-5, rtol=1e-5)


def test_files_of_half_precision_are_run_in_float32(tmp_path: Path) -> None:
    folder = folder_of(hf_model("CLIPVisionModel").half(), tmp_path)
    found = load_backbone(str(folder))
    assert {parameter.dtype for parameter in found.parameters()} == {torch.float32}


def test_images_are_made_ready_as_the_folder_says(tmp_path: Path) -> None:
    folder = folder_of(hf_model("ViTModel"), tmp_path)
    found = preprocessing_of(load_backbone(str(folder)))
    assert (found.height, found.crop_pct, found.crop_mode) == (32, 0.8, "center")
    assert found.interpolation == "bicubic"
    assert found.mean == pytest.approx((0.5, 0.4, 0.3))
    assert found.std == pytest.approx((0.2, 0.2, 0.1))


def test_the_size_of_images_is_that_of_the_folders_crop_unless_another_is_asked_for(
    tmp_path: Path,
) -> None:
    folder = folder_of(hf_model("Dinov2Model"), tmp_path)
    values = PREPROCESSOR | {"crop_size": {"height": 24, "width": 24}}
    (folder / "preprocessor_config.json").write_text(json.dumps(values))
    assert load_backbone(str(folder)).facts.grid == (3, 3)
    assert load_backbone(str(folder), image_size=48).facts.grid == (6, 6)
    beit = folder_of(hf_model("BeitModel"), tmp_path / "beit")
    with pytest.raises(AutotokError, match="takes images of 32 pixels, not 48"):
        load_backbone(str(beit), image_size=48)


@torch.no_grad()
@torch.no_grad()
def test_tables_are_made_anew_where_only_a_structure_was_asked_for_before(tmp_path: Path) -> None:
    config, options = CONFIGS["BeitModel"]
    made = getattr(transformers, config)(**{**options, "image_size": 112})  # of no other test
    model = drawn(transformers.BeitModel(made))
    folder = f"hf:{folder_of(model, tmp_path / 'model')}"
    images = torch.randn(1, 3, 112, 112)
    assert cast(HFViT, load_structure(folder)).pairs.is_meta
    found = load_backbone(folder)
    torch.testing.assert_close(found(images), model(images).pooler_output)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["ViTForImageClassification", "BeitModel"])
def test_a_model_object_comes_back_from_its_bundle_alone(kind: str, tmp_path: Path) -> None:
    backbone = as_backbone(hf_model(kind))
    model = compress_backbone(backbone, HALF).eval()
    told = preprocessing_of(backbone).to_dict()
    bundle = Bundle(BackboneRef.of(backbone.facts), HALF, told, {})
    save_bundle(tmp_path / "best", model, bundle, pixels(), formats=())
    torch.testing.assert_close(load_bundle(tmp_path / "best")(pixels()), model(pixels()))
    with pytest.raises(CheckpointError, match=r"hf:.*could not be fetched"):
        load_backbone(backbone.facts.name)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["ViTForImageClassification", "DINOv3ViTModel"])
def test_images_that_are_no_squares_are_run_where_the_configuration_says_so(
    kind: str, tmp_path: Path
) -> None:
    config, options = CONFIGS[kind]
    made = getattr(transformers, config)(**{**options, "image_size": [32, 64]})
    model = drawn(getattr(transformers, kind)(made))
    oblong = PREPROCESSOR | {"size": {"height": 32, "width": 64}, "do_center_crop": False}
    folder = folder_of(model, tmp_path / "model")
    (folder / "preprocessor_config.json").write_text(json.dumps(oblong))
    found = load_backbone(f"hf:{folder}")
    assert isinstance(found, HFViT)
    assert found.facts.image_shape == (3, 32, 64)
    how = preprocessing_of(found)
    assert (how.height, how.width, how.resize) == (32, 64, (32, 64))
    images = torch.randn(2, 3, 32, 64)
    expected = found._primary(model(images))
    torch.testing.assert_close(found(images), expected, atol=1e-5, rtol=1e-5)
    config_json = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config_json | {"image_size": 32}))
    with pytest.raises(UnsupportedBackbone, match=r"images of 32 x 64 .* says 32 x 32; correct"):
        load_structure(f"hf:{folder}")


def test_positions_of_an_oblong_grid_are_not_resampled_to_a_square(tmp_path: Path) -> None:
    config = transformers.ViTConfig(**{**CONFIGS["ViTModel"][1], "image_size": [32, 64]})
    folder = folder_of(drawn(transformers.ViTModel(config)), tmp_path / "model")
    for asked in ({}, {"image_size": 48}):  # the folder's own crop is a square, too
        with pytest.raises(UnsupportedBackbone, match="positions of squares alone") as caught:
            load_structure(f"hf:{folder}", **asked)
        assert "\n" not in str(caught.value)


def test_another_size_than_the_folders_takes_the_same_share_of_an_image(tmp_path: Path) -> None:
    folder = folder_of(hf_model("ViTModel"), tmp_path / "model")
    own = preprocessing_of(load_structure(f"hf:{folder}"))
    assert (own.height, own.before_crop, own.crop_rounding) == (32, (40, 40), "down")
    larger = preprocessing_of(load_structure(f"hf:{folder}", image_size=64))
    assert (larger.height, larger.before_crop, larger.resize) == (64, (80, 80), None)


def test_a_bundle_is_rebuilt_without_the_folder_it_came_from(tmp_path: Path) -> None:
    folder = folder_of(hf_model("DINOv3ViTModel"), tmp_path / "model")
    backbone = load_backbone(f"hf:{folder}")
    model = autotok.compress(backbone, HALF)
    bundle = Bundle(BackboneRef.of(backbone.facts), HALF, preprocessing_of(backbone).to_dict())
    save_bundle(tmp_path / "best", model, bundle, pixels(), formats=())
    expected, ready = model(pixels()), preprocessing_of(backbone)
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    again = load_bundle(tmp_path / "best")
    assert torch.equal(again(pixels()), expected)
    assert preprocessing_of(again.backbone) == ready
    assert again(pixel_values=pixels()).pooler_output.shape == (2, 32)
    assert bundle_structure(tmp_path / "best").schedule == model.schedule


def test_weights_that_are_not_all_there_are_never_made_up(tmp_path: Path) -> None:
    folder = folder_of(hf_model("ViTForImageClassification"), tmp_path)
    tensors = load_file(folder / "model.safetensors")
    for fault, words in (("less", "is missing"), ("more", "has no place in it")):
        changed = dict(tensors)
        if fault == "less":
            del changed["classifier.weight"]
        else:
            changed["vit.encoder.layer.0.lora.weight"] = torch.ones(2)
        save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match=words) as caught:
            load_backbone(str(folder))
        assert "\n" not in str(caught.value)


def test_a_folder_is_asked_for_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_of(hf_model("ViTModel"), tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="'mine' is a folder; ask for it as 'hf:mine'"):
        load_backbone("mine")
    assert load_backbone("hf:mine").facts == load_backbone("hf:mine").facts


def test_what_cannot_be_had_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autotok.backbones.hub.hub_answers", lambda: False)
    with pytest.raises(CheckpointError, match="'hf:nobody/nothing' could not be fetched") as caught:
        load_backbone("hf:nobody/nothing")
    assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="is no folder and names no repository"):
        load_backbone(f"hf:{tmp_path / 'none'}")
    (tmp_path / "config.json").write_text("{not json")
    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        load_backbone(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "swin"}))
    with pytest.raises(UnsupportedBackbone, match="autotok runs ViT, DeiT"):
        load_backbone(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no_such"}))
    with pytest.raises(CheckpointError, match="carries no configuration of transformers"):
        load_backbone(str(tmp_path))


def test_without_transformers_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> None:
        raise ImportError(name)

    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    monkeypatch.setattr(hf_family.importlib, "import_module", fail)
    with pytest.raises(CheckpointError, match=r"pip install 'autotok\[transformers\]'"):
        load_backbone(str(tmp_path))
