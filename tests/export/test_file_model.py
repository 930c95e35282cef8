"""A file where a model is expected: any number of images, the configuration's number format."""

import dataclasses
from pathlib import Path

import pytest
import torch
from exporting import CONFIG, photos
from torch import nn

from autotok.backbones.base import evaluating
from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig
from autotok.export.exported import export_model
from autotok.export.file_model import FileModel, as_file
from autotok.export.formats import FORMATS


class Rows(nn.Module):
    """Refuses all but batches of 2, as a file of fixed batch does."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert len(images) == 2
        return images.flatten(1)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_any_number_of_images_goes_through_a_file_of_fixed_batch(count: int) -> None:
    images = photos(count)
    found = FileModel(Rows(), CompressionConfig(), batch=2)(images)
    assert torch.equal(found, images.flatten(1))


@pytest.mark.parametrize("format", ["torchscript", "pt2"])
def test_files_of_torch_itself_can_be_judged_too(format: str, tmp_path: Path) -> None:
    model = compress_backbone(tiny_backbone(), CONFIG).eval()
    chosen = FORMATS.get(format)
    path = tmp_path / f"model{chosen.suffix}"
    export_model(model, path, photos(2), format=format)
    found = FileModel(chosen.open(path, torch.device("cpu")), CONFIG)
    with evaluating(found), torch.inference_mode():
        torch.testing.assert_close(found(photos(3)), model(photos(3)), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_files")
def test_the_file_is_in_the_number_format_of_the_configuration() -> None:
    config = dataclasses.replace(CONFIG, number_format="int8")
    model = compress_backbone(tiny_backbone(), config).eval()
    found = as_file(model, photos(8))
    assert found.config is config
    with torch.inference_mode():
        expected, got = model(photos(3)), found(photos(3))
    far = float((expected - got).abs().max() / expected.abs().max())
    assert 1e-4 < far < 0.1
