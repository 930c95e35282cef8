"""Files are run before they are handed over: with several batches, and without a trace back."""

from pathlib import Path

import pytest
import torch
from exporting import compressed, photos
from torch import Tensor

from autotok.backbones.tiny import tiny_backbone
from autotok.errors import ExportError
from autotok.export.exported import export_model
from autotok.export.formats import FORMATS, ExportFormat
from autotok.methods import gtp


@pytest.mark.parametrize(("name", "batch"), [("dpcknn", "dynamic"), ("topk", 1)])
def test_a_dynamic_batch_is_tried_before_it_is_said(
    name: str, batch: str | int, tmp_path: Path
) -> None:
    """The older exporter writes the example's batch into the graph of `topk`."""
    model, path = compressed(name, tiny_backbone()).eval(), tmp_path / "model.onnx"
    result = export_model(model, path, photos(4), dynamic_batch=True, opset=17)
    notes = () if batch == "dynamic" else (
        "a dynamic batch could not be exported; it is fixed at 1",
    )  # fmt: skip
    assert (result.batch, result.notes, result.ok) == (batch, notes, True)
    tried = (1, 5) if batch == "dynamic" else (1,)
    with torch.inference_mode():
        for number in tried:
            found = FORMATS.get("onnx").run(path, photos(5), number)
            assert torch.allclose(found, model(photos(5)), atol=1e-4)


def test_a_file_that_is_right_for_the_example_alone_has_no_dynamic_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx_format, asked = type(FORMATS.get("onnx")), []
    right = onnx_format.run

    def run(self: ExportFormat, path: Path, images: Tensor, batch: int) -> Tensor:
        asked.append(batch)
        return right(self, path, images, batch) + (batch == 3)

    monkeypatch.setattr(onnx_format, "run", run)
    model, path = compressed("none", tiny_backbone()), tmp_path / "m.onnx"
    result = export_model(model, path, photos(1), dynamic_batch=True, opset=17)
    assert (result.batch, asked) == (1, [1, 2, 3, 1])


def test_what_a_runtime_refuses_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        gtp, "diagonal", lambda count, device: torch.eye(count, dtype=torch.bool, device=device)
    )
    model = compressed("gtp", tiny_backbone()).eval()
    sentence = r"exported to onnx: onnxruntime .* does not run the file \(NotImpl.*; try --format"
    with pytest.raises(ExportError, match=sentence) as caught:
        export_model(model, tmp_path / "m.onnx", photos(), opset=17)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""
