"""`autotok export`: the file, its quality on images, its speed beside the uncompressed model."""

import json
from pathlib import Path

import pytest
import torch
from early import early_model
from PIL import Image
from typer.testing import CliRunner

import autotok
from autotok.backbones.tiny import tiny_backbone
from autotok.cli.models import app
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig, Reduction
from autotok.devices import runtimes
from autotok.devices.measurement import Measurement
from autotok.devices.reference_files import export_for_timing
from autotok.errors import ConfigError, ExportError
from autotok.evaluation import preprocessing
from autotok.evaluation.data import load_data
from autotok.evaluation.preprocessing import read_image
from autotok.exits import ExitPolicy
from autotok.pruned_spec import PrunedSpec
from autotok.report.export_report import CALIBRATED, calibration_images, export_report

ARGUMENTS = ["--backbone", "tiny", "--method", "topk", "--keep", "0.5@1"]

PRUNED = PrunedSpec((0, 2), ((0, 1), (2,)), ("f" * 8 + "0" * 40,) * 2)


def test_int8_without_images_to_calibrate_on_is_refused_at_once(tmp_path: Path) -> None:
    model = autotok.compress(tiny_backbone(), method="topk", keep={1: 0.5})
    with pytest.raises(ExportError, match="int8 is calibrated on images: give --data"):
        export_report(model, tmp_path / "m.onnx", precision="int8")


def test_images_to_calibrate_on_are_all_that_is_decoded_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(150):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number:03}.png")
    read: list[Path] = []

    def counted(path: Path) -> Image.Image:
        read.append(path)
        return read_image(path)

    monkeypatch.setattr(preprocessing, "read_image", counted)
    model = autotok.compress(tiny_backbone(), method="topk", keep={1: 0.5})
    found = calibration_images(model, tmp_path, used=70)
    assert (len(found), len(read)) == (CALIBRATED, 70 + CALIBRATED)
    source = load_data(tmp_path, model.backbone)
    behind = source.subset(150, 0)[70 : 70 + CALIBRATED]
    assert torch.equal(found, source.batch(behind)[0])
    assert torch.equal(
        calibration_images(model, tmp_path, used=140),
        source.batch(source.subset(150, 0)[-CALIBRATED:])[0],
    )


def test_a_file_is_timed_beside_the_whole_model_on_images_of_that_one_s_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch is filled up where the data has fewer images."""
    for number in range(3):
        Image.new("RGB", (32, 32), (60 * number, 0, 0)).save(tmp_path / f"{number}.png")
    beside: list[torch.nn.Module] = []

    def ran(opened: torch.nn.Module, images: torch.Tensor, **how: torch.nn.Module) -> Measurement:
        assert images.shape == (4, 3, 16, 16)
        assert opened(images).shape == how["reference"](images).shape == (4, 10)
        return Measurement(
            latency_ms=1.0, p90_ms=1.0, mad_ms=0.0, runs=1, verdict="steady",
            reference_latency_ms=3.0, speedup=3.0, peak_memory_mb=1.0, memory_source="", device="",
            runtime="", dtype="float32", batch=4, image_shape=(3, 16, 16), threads=1, when="",
        )  # fmt: skip

    def export(model: torch.nn.Module, path: Path, images: torch.Tensor, format: str) -> None:
        beside.append(model)
        assert images.shape == (4, 3, 32, 32)
        export_for_timing(model, path, images, format)

    monkeypatch.setattr(runtimes, "measure", ran)
    monkeypatch.setattr(runtimes, "export_for_timing", export)
    whole, config = tiny_backbone(), CompressionConfig(subnet=PRUNED, image_size=16)
    found = export_report(
        *(compress_backbone(whole, config), tmp_path / "m.pt"),
        format="torchscript",
        data=tmp_path,
        batch=4,
        measured=True,
    )
    assert beside == [whole]
    assert (found["measured_uncompressed_ms"], found["measured_speedup"]) == (3.0, 3.0)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_files", "three_turns")
def test_quality_is_of_the_file_and_speed_beside_the_uncompressed_export(tmp_path: Path) -> None:
    path = str(tmp_path / "m.onnx")
    asked = ["--data", "digits", "--precision", "int8", "--images", "40", "--measure", "--json"]
    done = CliRunner().invoke(app, ["export", "-o", path, *ARGUMENTS, *asked])
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert (found["precision"], found["num_images"]) == ("int8", 64)
    assert found["quality_images"] == 40
    assert found["labelling"] == "labels: the 10 classes of 'digits'"
    assert abs(found["quality_of_file"] - found["quality_in_torch"]) <= 20.0
    assert found["measured_latency_ms"] > 0
    assert "onnxruntime" in found["measurement"]
    assert ", int8, batch 1" in found["measurement"]


@pytest.mark.slow
def test_the_speed_of_a_model_that_stops_early_is_the_mean_of_an_image(tmp_path: Path) -> None:
    model = early_model(ExitPolicy((0,), threshold=(-1.0,)), backbone=tiny_backbone())
    found = export_report(model, tmp_path / "m.pt", format="torchscript", measured=True)
    assert found["stopped"] == [64, 0]
    assert found["macs_mean_g"] == found["macs_g_by_part"][0]
    assert ", float32, batch 1, 3x32x32" in found["measurement"]


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (["--opset", "9"], "operator set 9 cannot be written to onnx files; give --opset 14 to 21"),
        (["--format", "pt2", "--precision", "int8"], "pt2 files come in float32 here"),
        (["--data", "nowhere"], "data folder 'nowhere' does not exist"),
        (["-o", "m.xml"], "'m.xml' is no name of a file in the format onnx; give one that ends in"),
        (["-o", "m.xml"], " .onnx, or choose --format openvino"),
        (["--format", "openvino", "-o", "m.bin"], "format openvino; give one that ends in .xml"),
        (["-o", "m"], "'m' is no name of a file in the format onnx; give one that ends in .onnx"),
        (["--class-names", "names.txt"], "class names 'names.txt' are for folders of images; give"),
        (["--data", "digits", "--class-names", "n"], "data 'digits' has its own classes"),
    ],
)
def test_what_cannot_be_is_told_before_a_model_is_loaded(
    tmp_path: Path, asked: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autotok.cli.models.build", None)
    done = CliRunner().invoke(app, ["export", "-o", str(tmp_path / "m.onnx"), *ARGUMENTS, *asked])
    assert sentence in str(done.exception)


def test_a_folded_model_is_not_judged_against_itself(tmp_path: Path) -> None:
    for number in range(4):
        Image.new("RGB", (32, 32), (60 * number, 0, 0)).save(tmp_path / f"{number}.png")
    options = {"adapters": "gone.safetensors"}
    config = CompressionConfig("tocom", (Reduction(1, 0.5),), options)
    model = compress_backbone(tiny_backbone(), config, is_folded=True)
    with pytest.raises(ConfigError, match="'agreement' needs the model it came from"):
        export_report(model, tmp_path / "m.onnx", data=tmp_path, judged=2)
    assert not (tmp_path / "m.onnx").exists()
    found = export_report(
        *(model, tmp_path / "m.pt"),
        format="torchscript",
        data=tmp_path,
        judged=2,
        uncompressed=tiny_backbone(),
    )
    assert found["quality_metric"] == "agreement"
