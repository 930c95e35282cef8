"""OpenVINO files say what torch says, in every number format, and lie where they were asked for."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from exporting import autoformer, compressed, photos
from torch import Tensor

from autotok.backbones.base import Backbone
from autotok.backbones.loading import as_backbone
from autotok.backbones.lvvit import LVViT, LVViTSpec
from autotok.backbones.timm_vit import VisionTransformer
from autotok.backbones.tiny import tiny_backbone
from autotok.errors import ExportError
from autotok.export import onnx as onnx_room
from autotok.export.exported import ExportResult, export_model
from autotok.export.formats import FORMATS, check_format

pytest.importorskip("openvino")
pytest.importorskip("nncf")


def test_both_parts_of_a_file_are_written_and_agree_with_torch(tmp_path: Path) -> None:
    model, path = compressed("tome", tiny_backbone()), tmp_path / "m.xml"
    result = export_model(model, path, photos(), format="openvino")
    assert {file.name for file in tmp_path.iterdir()} == {"m.xml", "m.bin"}
    assert result.max_abs_diff < 1e-4
    assert result.operators["MatMul"] > 10
    assert result.runtime.startswith("openvino 20")


def test_a_file_made_of_what_the_older_exporter_wrote_is_not_taken_on_trust_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(path: Path, images: Tensor, batch: int) -> Tensor:
        return torch.arange(10.0).repeat(len(images), 1)

    monkeypatch.setattr(onnx_room, "_write_dynamo", lambda *_: 1 / 0)
    monkeypatch.setattr(FORMATS.get("openvino"), "run", wrong)
    model, path = compressed("none", tiny_backbone(1)), tmp_path / "m.xml"
    with pytest.raises(ExportError, match="written by 'openvino of torchscript' after the usual"):
        export_model(model, path, photos(), format="openvino", strict=False)


@pytest.mark.slow
def test_a_file_of_dynamic_batch_takes_any(tmp_path: Path) -> None:
    model, path = compressed("topk", tiny_backbone()), tmp_path / "m.xml"
    export_model(model, path, photos(4), format="openvino", dynamic_batch=True)
    with torch.inference_mode():
        expected = model(photos(3))
    found = FORMATS.get("openvino").run(path, photos(3), 3)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    path = tmp_path_factory.mktemp("float32") / "m.xml"
    return export_model(compressed("topk", tiny_backbone()), path, photos(8), format="openvino")


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "far"), [("float16", 0.01), ("int8", 0.07)])
def test_lower_number_formats_are_smaller_and_near(
    whole: ExportResult,
    tmp_path: Path,
    precision: str,
    far: float,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, path = compressed("topk", tiny_backbone()), tmp_path / "n.xml"
    result = export_model(model, path, photos(8), format="openvino", precision=precision)
    assert 0.0 < result.max_rel_diff < far
    files = (Path(whole.path), path)
    weights = [file.with_suffix(".bin").stat().st_size for file in files]
    assert weights[1] < 0.6 * weights[0]
    assert result.precision != whole.precision
    assert capsys.readouterr().out == ""


def test_a_missing_runtime_is_one_sentence_that_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(ExportError, match=r"pip install 'autotok\[openvino\]'"):
        check_format("openvino")


def scaled() -> Backbone:
    shape = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 4, "num_heads": 3}
    return as_backbone(VisionTransformer(num_classes=10, init_values=0.5, **shape))


def lvvit() -> Backbone:
    return LVViT(LVViTSpec(48, 4, 3, 96, image_shape=(3, 32, 32), patch_size=8, num_classes=10))


@pytest.mark.slow
@pytest.mark.parametrize("make", [scaled, lvvit, autoformer])
def test_backbones_of_every_kind_agree_with_torch_on_64_images(
    tmp_path: Path, make: Callable[[], Backbone]
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = make()
        for parameter in backbone.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    model = compressed("tome", backbone.eval())
    result = export_model(model, tmp_path / "m.xml", photos(64), format="openvino")
    assert (result.same_argmax, result.num_images) == (True, 64)
    assert result.max_rel_diff < 1e-5
