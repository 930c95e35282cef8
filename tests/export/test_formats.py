"""An export format is one file: registered from here, everything else follows from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typer.testing import CliRunner

from autotok.backbones.loading import load_backbone
from autotok.cli.models import app
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig
from autotok.devices.device import measure_here
from autotok.errors import ConfigError, ExportError, UnknownName
from autotok.export.best_yaml import BackboneRef, Bundle
from autotok.export.bundle import save_bundle
from autotok.export.exported import export_model
from autotok.export.formats import (
    FORMATS,
    ExportFormat,
    Written,
    check_format,
    not_exported,
    register_format,
)


class Unpacked(nn.Module):
    """A tiny ViT with the weights of a toy file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.model = compress_backbone(load_backbone("tiny"), CompressionConfig())
        self.model.load_state_dict(load_file(path))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        return logits


@pytest.fixture
def toy() -> Iterator[None]:
    """The format while a test runs: all that a package of somebody else's has to say."""

    @register_format("toy")
    class ToyFormat(ExportFormat):
        suffix = ".toy"
        open_batch = False
        runtime = "toyruntime"

        def takes(self, operator: str) -> bool:
            return operator != "Odd"

        def write(
            self, model: nn.Module, images: Tensor, path: Path, *, dynamic_batch: bool
        ) -> Written:
            if len(images) > 4:
                raise not_exported(self.name, "more than four images")
            save_file({k: v.contiguous().clone() for k, v in model.state_dict().items()}, path)
            return Written("toy exporter 1", {"Even": 3, "Odd": 1})

        def open(self, path: Path, device: torch.device) -> nn.Module:
            return Unpacked(path).eval()

        def version(self, opened: nn.Module | None = None) -> str:
            return "toy 1.0"

    yield
    FORMATS.discard("toy")


def model() -> nn.Module:
    return compress_backbone(load_backbone("tiny"), CompressionConfig())


def photos(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.usefixtures("toy")
def test_a_registered_format_is_written_run_and_judged_as_the_others_are(tmp_path: Path) -> None:
    found = export_model(model(), tmp_path / "m.toy", photos(), format="toy", dynamic_batch=True)
    assert (found.ok, found.exporter, found.runtime) == (True, "toy exporter 1", "toy 1.0")
    assert (found.operators, found.risky_operators) == ({"Even": 3, "Odd": 1}, ("Odd",))
    assert found.batch == 1
    assert found.notes == ("a dynamic batch could not be exported; it is fixed at 1",)
    with pytest.raises(
        ExportError, match="to toy: more than four images; try --format onnx, openvino"
    ):
        export_model(model(), tmp_path / "n.toy", photos(5), format="toy", batch=5)


@pytest.mark.usefixtures("toy")
def test_bundles_hold_a_registered_format_under_its_own_ending(tmp_path: Path) -> None:
    backbone = load_backbone("tiny")
    bundle = Bundle(BackboneRef.of(backbone.facts), CompressionConfig(), {})
    compressed = compress_backbone(backbone, CompressionConfig())
    save_bundle(tmp_path / "best", compressed, bundle, photos(), formats=("toy",))
    assert (tmp_path / "best" / "model.toy").is_file()


@pytest.mark.usefixtures("toy")
def test_models_are_timed_in_the_runtime_of_a_registered_format() -> None:
    found = measure_here(model(), photos(1), None, runtime="toyruntime")
    assert found.runtime == "toy 1.0"
    assert found.latency_ms > 0


@pytest.mark.usefixtures("toy")
def test_the_command_line_takes_a_registered_format(tmp_path: Path) -> None:
    arguments = ["export", "-o", str(tmp_path / "m.toy"), "--backbone", "tiny", "--format", "toy"]
    done = CliRunner().invoke(app, [*arguments, "--method", "none"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "m.toy").is_file()


def test_each_runtime_of_a_board_is_given_the_one_format_that_it_runs() -> None:
    takers = {name: [f.name for f in FORMATS if name in f.board_runtimes]
              for name in ("torch", "onnxruntime", "trtexec")}  # fmt: skip
    assert takers == {"torch": ["torchscript"], "onnxruntime": ["onnx"], "trtexec": ["onnx"]}


def test_an_unknown_format_is_told_with_the_nearest_before_anything_is_loaded() -> None:
    with pytest.raises(UnknownName, match="'onx' is unknown; did you mean 'onnx'"):
        check_format("onx")


def test_a_format_of_the_package_is_not_replaced_by_another_of_its_name() -> None:
    with pytest.raises(ConfigError, match="export format 'onnx' is registered twice"):

        @register_format("onnx")
        class Other(ExportFormat):
            pass
