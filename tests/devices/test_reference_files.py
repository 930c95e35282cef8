"""Files of uncompressed models are written once for whatever determines them, and then removed."""

from pathlib import Path

import pytest
import torch
from early import early_model
from torch import Tensor, nn

from autotok.backbones.tiny import tiny_backbone
from autotok.devices import reference_files
from autotok.devices.reference_files import ReferenceFiles
from autotok.errors import ExportError
from autotok.exits import ExitPolicy
from autotok.export.formats import FORMATS

ONNX = FORMATS.get("onnx")


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files that were exported, which takes seconds in earnest."""
    found: list[Path] = []

    def export(model: nn.Module, path: Path, images: Tensor, **how: object) -> None:
        path.write_text("a graph")
        found.append(path)

    monkeypatch.setattr(reference_files, "export_model", export)
    return found


def test_a_model_is_written_once_for_a_format_and_a_shape(written: list[Path]) -> None:
    files, model = ReferenceFiles(), nn.Linear(2, 2)
    one, two = torch.zeros(1, 2), torch.zeros(2, 2)
    assert files.file(model, one, ONNX) == files.file(model, one, ONNX) == written[0]
    assert files.file(model, two, ONNX) != written[0]
    assert files.file(nn.Linear(2, 2), one, ONNX) not in written[:2]
    assert files.file(model, one, FORMATS.get("torchscript")).suffix == ".pt"
    assert len(written) == 4


def test_changed_weights_are_another_file(written: list[Path]) -> None:
    files, model, images = ReferenceFiles(), nn.Linear(2, 2), torch.zeros(1, 2)
    first = files.file(model, images, ONNX)
    model.weight.data.add_(1.0)
    assert files.file(model, images, ONNX) != first


def test_closing_removes_the_files_and_so_does_forgetting_it(written: list[Path]) -> None:
    files, model, images = ReferenceFiles(), nn.Linear(2, 2), torch.zeros(1, 2)
    first = files.file(model, images, ONNX)
    files.close()
    again = files.file(model, images, ONNX)
    assert [first.parent.exists(), again.exists()] == [False, True]
    del files
    assert not again.parent.exists()


def test_what_stops_early_is_not_timed_by_one_image(tmp_path: Path) -> None:
    model = early_model(ExitPolicy((0,)), backbone=tiny_backbone())
    with pytest.raises(ExportError, match="depends on the image: time its files on images"):
        reference_files.export_for_timing(model, tmp_path / "m", torch.zeros(1, 3, 32, 32), "onnx")
