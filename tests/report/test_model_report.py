"""Bundles of single models: what their files were compared with torch on."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torch import Tensor

from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig
from autotok.errors import ConfigError
from autotok.export.best_yaml import read_best
from autotok.export.exported import ExportResult
from autotok.metrics import METRICS
from autotok.report.model_report import CHECKED, write_bundle

AGREES = ExportResult(
    path="model.onnx", format="onnx", exporter="dynamo", runtime="onnxruntime", batch=1,
    input_shape=(1, 3, 32, 32), size_mb=1.0, max_abs_diff=1e-6, max_rel_diff=1e-6,
    same_argmax=True, num_images=4, ok=True, operators={},
)  # fmt: skip


def exported_without_files(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The images that bundles' files are then compared on; no file is written."""
    given: list[Tensor] = []

    def export(model: Any, path: Path, images: Tensor, *, checked_on: str, **_: Any) -> Any:
        given.append(images)
        return dataclasses.replace(AGREES, num_images=len(images), checked_on=checked_on)

    monkeypatch.setattr("autotok.export.bundle.export_model", export)
    return given


@pytest.mark.parametrize("is_given", [True, False])
def test_a_bundle_is_checked_on_images_of_the_data_or_says_that_they_were_random(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_given: bool
) -> None:
    given, data = exported_without_files(monkeypatch), tmp_path / "data"
    data.mkdir()
    for number in range(3):
        Image.new("RGB", (32, 32), (60 * number, 0, 0)).save(data / f"{number}.png")
    model = compress_backbone(tiny_backbone(), CompressionConfig()).eval()
    how = {"checkpoint": None, "data": data if is_given else None}
    report = write_bundle(model, tmp_path / "bundle", **how)
    said = "3 images" if is_given else f"{CHECKED} random images"
    assert all(image.std(dim=(1, 2)).max() < 1e-3 for image in given[0]) == is_given
    assert report["onnx_checked_on"] == said
    readme = (tmp_path / "bundle" / "README.md").read_text()
    assert f"agrees with torch on {said} (" in readme
    costs = read_best(tmp_path / "bundle").evidence["costs"]
    assert f"- Cost: {METRICS['macs'].number(costs['macs_g'])} G multiply-accumulates" in readme
    assert json.loads((tmp_path / "bundle" / "check.json").read_text())["exports"]["onnx"]["ok"]


def test_a_bundle_calls_the_classes_as_what_it_was_made_of_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported_without_files(monkeypatch)
    names, file = list("jihgfedcba"), tmp_path / "names.txt"
    file.write_text("\n".join(names), "utf-8")

    def called(name: str, **how: Any) -> list[str] | None:
        backbone = tiny_backbone()
        monkeypatch.setattr(type(backbone), "class_names", how.pop("own", ()))
        model = compress_backbone(backbone, CompressionConfig()).eval()
        write_bundle(model, tmp_path / name, checkpoint=None, **how)
        told = json.loads((tmp_path / name / "preprocessing.json").read_text("utf-8"))
        return told.get("class_names")

    assert called("bare") is None
    assert called("of-file", class_names=file) == names
    assert called("of-bundle", found_in=tmp_path / "of-file") == names
    assert called("of-model", own=tuple(names)) == names
    assert read_best(tmp_path / "of-bundle").evidence["class_names"] == str(file)
    file.unlink()
    assert called("of-bundle-alone", found_in=tmp_path / "of-bundle") == names
    (tmp_path / "of-file" / "preprocessing.json").write_text("{}", "utf-8")
    with pytest.raises(ConfigError, match=r"preprocessing\.json' lacks the key"):
        called("of-damaged", found_in=tmp_path / "of-file")
