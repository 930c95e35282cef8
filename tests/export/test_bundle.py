"""A bundle rebuilds the same model elsewhere, and damaged ones are refused in one sentence."""

import dataclasses
import hashlib
import json
from pathlib import Path

import onnx
import pytest
import torch
import yaml
from exporting import CONFIG, images, made

from autotok.backbones.loading import as_backbone
from autotok.backbones.tiny import tiny_backbone, tiny_vit
from autotok.compression.compress import compress_backbone
from autotok.compression.model import CompressedViT
from autotok.config import CompressionConfig, Reduction
from autotok.errors import CheckpointError, ConfigError, ExportError
from autotok.evaluation.preprocessing import preprocessing_of
from autotok.export import bundle as bundle_room
from autotok.export.best_yaml import BackboneRef, Bundle, read_best, write_best
from autotok.export.bundle import load_bundle, load_uncompressed, save_bundle
from autotok.finetune_spec import FineTuneSpec


def test_a_saved_bundle_rebuilds_the_same_model(tmp_path: Path) -> None:
    model, bundle = made()
    results = save_bundle(tmp_path / "best", model, bundle, images(), formats=("torchscript",))
    assert results["exports"]["torchscript"]["ok"]
    assert {p.name for p in (tmp_path / "best").iterdir()} == {
        "README.md", "check.json", "config.yaml", "model.pt", "weights.safetensors",
    }  # fmt: skip
    with torch.inference_mode():
        assert torch.equal(load_bundle(tmp_path / "best")(images()), model(images()))
    assert [p.name for p in tmp_path.iterdir()] == ["best"]


def test_a_learned_method_comes_back_without_what_only_training_needs(tmp_path: Path) -> None:
    _, bundle = made()
    config = CompressionConfig("sit", (Reduction(1, num_keep=9), Reduction(2, num_keep=5)))
    backbone = tiny_backbone()
    model = compress_backbone(backbone, config).eval()
    learned = Bundle(BackboneRef.of(backbone.facts), config, bundle.preprocessing, {})
    save_bundle(tmp_path / "best", model, learned, images(), formats=())
    back = load_bundle(tmp_path / "best")
    with torch.no_grad():
        torch.testing.assert_close(back(images()), model(images()))
    assert not [key for key in back.state_dict() if ".reverse." in key]


def test_best_yaml_finds_the_weights_of_the_folder_beside_it(tmp_path: Path) -> None:
    model, bundle = made()
    save_bundle(tmp_path / "best", model, bundle, images(), formats=())
    write_best(tmp_path / "best.yaml", bundle)
    with torch.inference_mode():
        assert torch.equal(load_bundle(tmp_path / "best.yaml")(images()), model(images()))


def test_best_yaml_alone_rebuilds_the_model_from_the_backbones_own_weights(tmp_path: Path) -> None:
    _, bundle = made()
    path = write_best(tmp_path / "best.yaml", bundle)
    plain = compress_backbone(tiny_backbone(), CONFIG)
    with torch.inference_mode():
        assert torch.equal(load_bundle(path)(images()), plain(images()))


def test_a_new_bundle_replaces_the_old_one_whole(tmp_path: Path) -> None:
    model, bundle = made()
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "stale.onnx").write_text("old")
    save_bundle(tmp_path / "best", model, bundle, images(), formats=())
    assert not (tmp_path / "best" / "stale.onnx").exists()


def test_a_format_that_fails_is_recorded_and_spoils_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ExportError("no such operator")

    monkeypatch.setattr(bundle_room, "export_model", fail)
    model, bundle = made()
    save_bundle(tmp_path / "best", model, bundle, images())
    check = json.loads((tmp_path / "best" / "check.json").read_text())
    assert check["exports"]["onnx"] == {"ok": False, "error": "no such operator"}
    assert "no such operator" in (tmp_path / "best" / "README.md").read_text()


def test_a_format_that_is_left_out_is_named_with_the_reason(tmp_path: Path) -> None:
    model, bundle = made()
    left_out = {"onnx": "no time was left"}
    save_bundle(tmp_path / "best", model, bundle, images(), formats=(), left_out=left_out)
    check = json.loads((tmp_path / "best" / "check.json").read_text())
    assert check["exports"]["onnx"]["left_out"]
    assert "- no onnx file: no time was left" in (tmp_path / "best" / "README.md").read_text()


def test_a_checkpoint_that_is_not_here_is_refused(tmp_path: Path) -> None:
    _, bundle = made()
    ref = dataclasses.replace(bundle.backbone, checkpoint="elsewhere.pth")
    path = write_best(tmp_path / "best.yaml", dataclasses.replace(bundle, backbone=ref))
    with pytest.raises(CheckpointError, match=r"elsewhere\.pth.* is not here"):
        load_bundle(path)


def test_weights_that_were_exchanged_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model, bundle = made()
    save_bundle(tmp_path / "best", model, bundle, images(), formats=())
    file = tmp_path / "best" / "weights.safetensors"
    save_file({"head.weight": torch.zeros(2, 2)}, file)
    with pytest.raises(CheckpointError, match=r"are not those that .* was written with"):
        load_bundle(tmp_path / "best")
    with pytest.raises(CheckpointError, match="does not fit backbone 'tiny'"):
        load_bundle(tmp_path / "best", checkpoint=file)


def test_the_configuration_goes_onto_another_backbone_by_name(tmp_path: Path) -> None:
    _, bundle = made()
    ref = dataclasses.replace(bundle.backbone, name="deit_no_such_thing")
    path = write_best(tmp_path / "best.yaml", dataclasses.replace(bundle, backbone=ref))
    assert load_bundle(path, backbone="tiny").config == CONFIG


def test_the_configuration_inside_a_bundle_finds_its_weights(tmp_path: Path) -> None:
    model, bundle = made()
    save_bundle(tmp_path / "best", model, bundle, images(), formats=())
    loaded = load_bundle(tmp_path / "best" / "config.yaml")
    with torch.inference_mode():
        assert torch.equal(loaded(images()), model(images()))


# --- retrained configurations


TUNED = dataclasses.replace(CONFIG, mode="retrain", finetune=FineTuneSpec(length="20 steps"))


def retrained(folder: Path) -> tuple[CompressedViT, Path]:
    """A fine-tuned model, and its best.yaml as a search writes it."""
    model, bundle = made()
    model = compress_backbone(model.backbone, TUNED).eval()
    bundle = dataclasses.replace(bundle, config=TUNED)
    save_bundle(folder / "best", model, bundle, images(), formats=())
    return model, write_best(folder / "best.yaml", bundle)


def test_a_retrained_best_yaml_names_its_weights_and_brings_them(tmp_path: Path) -> None:
    model, path = retrained(tmp_path)
    (item,) = read_best(path).weights
    digest = hashlib.sha256((tmp_path / "best" / "weights.safetensors").read_bytes()).hexdigest()
    assert (item.file, item.sha256) == ("best/weights.safetensors", digest)
    assert read_best(tmp_path / "best").weights[0].file == "weights.safetensors"
    with torch.inference_mode():
        expected = model(images())
        for given in (path, tmp_path / "best", tmp_path / "best" / "config.yaml"):
            assert torch.equal(load_bundle(given)(images()), expected)
    assert "autotok.compress" not in path.read_text()


def test_a_retrained_bundle_may_be_moved_as_a_whole(tmp_path: Path) -> None:
    model, _ = retrained(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    with torch.inference_mode():
        loaded = load_bundle(tmp_path / "there" / "best.yaml")
        assert torch.equal(loaded(images()), model(images()))


def test_a_retrained_configuration_without_its_weights_is_refused(tmp_path: Path) -> None:
    _, path = retrained(tmp_path)
    (tmp_path / "best" / "weights.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match=r"written with, are not here; keep the folder 'best'"
    ):
        load_bundle(path)
    data = yaml.safe_load(path.read_text())
    del data["weights"]
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(ConfigError, match="names no weights"):
        load_bundle(path)


def test_other_weights_than_those_it_was_written_with_are_refused(tmp_path: Path) -> None:
    _, path = retrained(tmp_path)
    file = tmp_path / "best" / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match=r"another sha256"):
        load_bundle(path)


def test_fine_tuned_weights_go_onto_no_other_backbone(tmp_path: Path) -> None:
    _, path = retrained(tmp_path)
    with pytest.raises(ConfigError, match="its weights fit no other backbone or checkpoint"):
        load_bundle(path, checkpoint=tmp_path / "mine.safetensors")


def test_a_retrained_best_yaml_is_not_written_without_its_weights(tmp_path: Path) -> None:
    bundle = dataclasses.replace(made()[1], config=TUNED)
    with pytest.raises(ConfigError, match="save the bundle folder first"):
        write_best(tmp_path / "best.yaml", bundle)
    assert list(tmp_path.iterdir()) == []


def test_the_uncompressed_backbone_of_a_retrained_one_has_its_own_weights(tmp_path: Path) -> None:
    _, path = retrained(tmp_path)
    with torch.inference_mode():
        assert torch.equal(load_uncompressed(path)(images()), tiny_backbone()(images()))


@pytest.mark.parametrize(
    ("weights", "message"),
    [("best", "must be a list"), ([{"file": "x", "sha": "y"}], "did you mean 'sha256'")],
)
def test_edited_weights_are_refused(tmp_path: Path, weights: object, message: str) -> None:
    _, path = retrained(tmp_path)
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "weights": weights}))
    with pytest.raises(ConfigError, match=message):
        read_best(path)


@pytest.mark.parametrize(("num_classes", "output"), [(0, "features"), (10, "logits")])
def test_the_output_of_a_bundle_is_called_what_it_is(
    tmp_path: Path, num_classes: int, output: str
) -> None:
    model = tiny_vit()
    model.reset_classifier(num_classes)
    backbone = as_backbone(model.eval())
    bundle = Bundle(BackboneRef.of(backbone.facts), CONFIG, preprocessing_of(backbone).to_dict())
    save_bundle(tmp_path / "b", compress_backbone(backbone, CONFIG).eval(), bundle, images())
    graph = onnx.load(str(tmp_path / "b" / "model.onnx")).graph
    assert [found.name for found in graph.output] == [output]
    text = (tmp_path / "b" / "README.md").read_text()
    assert f"Output: `{output}`." in text
    assert f"images in, {output} out" in text
