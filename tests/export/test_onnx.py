"""ONNX files: which exporter wrote them, and for which batch."""

from pathlib import Path

import onnx
import pytest
import torch
from exporting import compressed, photos
from torch import Tensor

from autotok.backbones.tiny import tiny_backbone
from autotok.errors import ExportError
from autotok.export import onnx as onnx_room
from autotok.export.exported import export_model
from autotok.export.formats import FORMATS


def test_a_file_of_dynamic_batch_takes_any_batch(tmp_path: Path) -> None:
    model = compressed("topk", tiny_backbone())
    path = tmp_path / "model.onnx"
    result = export_model(model, path, photos(4), dynamic_batch=True)
    assert result.batch == "dynamic"
    with torch.inference_mode():
        expected = model(photos(3))
    assert torch.allclose(FORMATS.get("onnx").run(path, photos(3), 3), expected, atol=1e-4)


def test_a_fixed_batch_is_written_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    result = export_model(compressed("none", tiny_backbone()), path, photos(3), batch=2)
    shape = onnx.load(str(path)).graph.input[0].type.tensor_type.shape
    assert [d.dim_value for d in shape.dim] == [2, 3, 32, 32]
    assert (result.batch, result.num_images) == (2, 4)


def test_the_older_exporter_steps_in_and_the_result_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no decomposition for aten::mystery")

    monkeypatch.setattr(onnx_room, "_write_dynamo", fail)
    result = export_model(compressed("none", tiny_backbone()), tmp_path / "m.onnx", photos())
    assert result.exporter == "torchscript"
    assert result.max_abs_diff < 1e-4


def test_a_file_of_the_older_exporter_that_disagrees_is_refused_even_if_not_strict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no decomposition for aten::mystery")

    def wrong(path: Path, images: Tensor, batch: int) -> Tensor:
        return torch.arange(10.0).repeat(len(images), 1)

    monkeypatch.setattr(onnx_room, "_write_dynamo", fail)
    monkeypatch.setattr(FORMATS.get("onnx"), "run", wrong)
    path = tmp_path / "m.onnx"
    with pytest.raises(ExportError, match=r"file, written by 'torchscript' after .* disagrees"):
        export_model(compressed("none", tiny_backbone()), path, photos(), strict=False)
    assert not path.exists()
