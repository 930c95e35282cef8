"""A model beside the uncompressed one, in each runtime of this machine."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from autotok.api.models import compress, profile
from autotok.backbones.tiny import tiny_backbone
from autotok.compression.model import CompressedViT
from autotok.devices import reference_files, runtimes
from autotok.devices.device import LocalDevice, leaving, measure_on, open_device
from autotok.devices.measurement import Measurement, MeasurementFailed
from autotok.errors import AutotokError, ExportError, UnknownName
from autotok.export.formats import FORMATS, list_formats

sys.path.insert(0, str(Path(__file__).parents[1] / "devices"))

from elsewhere import DEVICE, a_device_elsewhere

READING = Measurement(
    latency_ms=1.0, p90_ms=1.0, mad_ms=0.0, runs=1, verdict="steady", reference_latency_ms=1.0,
    speedup=1.0, peak_memory_mb=1.0, memory_source="", device="", runtime="", dtype="float32",
    batch=1, image_shape=(3, 32, 32), threads=1, when="",
)  # fmt: skip


@pytest.fixture(scope="module")
def model() -> CompressedViT:
    return compress(tiny_backbone(), method="tome", r=2)


def test_the_verb_names_every_runtime_of_this_project() -> None:
    of_files = {FORMATS.get(name).runtime for name in list_formats()} - {None}
    for name in ("eager", "compile", *of_files):
        assert f"'{name}'" in str(profile.__doc__)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_files", "three_turns")
def test_onnx_runtime_measures_the_exported_model(model: CompressedViT) -> None:
    found = measure_on(open_device("local?runtime=onnxruntime"), model)
    assert found.runtime.startswith("onnxruntime")
    assert found.runtime.endswith("CPUExecutionProvider")
    assert found.dtype == "float32"
    assert found.memory_source.startswith("high-water mark of a process of its own")
    assert found.memory_alone
    assert found.speedup is not None


def test_a_file_s_memory_is_that_of_a_process_that_runs_it_alone_or_is_said_to_hold_more(
    model: CompressedViT, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise AutotokError("memory of '0.onnx' could not be measured: no room")

    monkeypatch.setattr(runtimes, "export_for_timing", lambda *_: None)
    monkeypatch.setattr(FORMATS.get("onnx"), "open", lambda path, device: torch.nn.Identity())
    images = torch.zeros(1, 3, 32, 32)
    monkeypatch.setattr(runtimes, "file_footprint", lambda *_, **__: (71.6, "its own"))
    found = runtimes.measure_in("onnxruntime", model, images, None)
    assert (found.peak_memory_mb, found.memory_source) == (71.6, "its own")
    assert found.memory_alone
    monkeypatch.setattr(runtimes, "file_footprint", fail)
    found = runtimes.measure_in("onnxruntime", model, images, None)
    assert found.memory_source.endswith(", torch and its copy of the model included")
    assert not found.memory_alone


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("there", [False, True])
def test_a_file_is_measured_where_its_runtime_runs_it_and_not_where_the_model_was(
    runtime: str, there: bool, model: CompressedViT, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[torch.device] = []

    def opened(path: Path, device: torch.device) -> torch.nn.Module:
        asked.append(device)
        return torch.nn.Linear(1, 1, device=device) if there else torch.nn.Identity()

    def timed(run: torch.nn.Module, images: torch.Tensor, **_: Any) -> Measurement:
        asked.append(images.device)
        return READING

    chosen = next(format for format in FORMATS if format.runtime == runtime)
    monkeypatch.setattr(runtimes, "export_for_timing", lambda *_: None)
    monkeypatch.setattr(runtimes, "measure", timed)
    monkeypatch.setattr(runtimes, "file_footprint", lambda *_, **__: (71.6, "its own"))
    monkeypatch.setattr(chosen, "open", opened)
    monkeypatch.setattr(chosen, "check", lambda: None)
    monkeypatch.setattr(chosen, "version", lambda opened: runtime)
    with a_device_elsewhere():
        images = torch.zeros(1, 3, 32, 32).to(DEVICE)
        found = runtimes.measure_in(runtime, model, images, None)
    assert asked == [DEVICE, DEVICE if there else torch.device("cpu")]
    assert (found.memory_source == "its own") is not there


def test_the_reference_is_exported_once_for_all_models_of_a_device(
    model: CompressedViT, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported: list[Any] = []
    onnx = FORMATS.get("onnx")
    monkeypatch.setattr(reference_files, "export_model", lambda m, *a, **how: exported.append(m))
    monkeypatch.setattr(onnx, "open", lambda path, device: torch.nn.Identity())
    monkeypatch.setattr(runtimes, "measure", lambda *args, **how: READING)
    device = open_device("local?runtime=onnxruntime")
    with leaving(device):
        for _ in range(2):
            measure_on(device, model)
    assert exported == [model, model.backbone, model]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_torch_compile_measures_the_compiled_model() -> None:
    small = compress(tiny_backbone(1), method="tome", r=2)  # every block takes its time
    found = profile(small, runtime="compile")
    assert found.runtime == f"torch {torch.__version__} compile"
    assert found.reference_latency_ms is not None


def test_a_model_that_a_runtime_refuses_is_told_in_a_sentence(
    model: CompressedViT, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(module: Any, **how: Any) -> Any:
        def run(images: Any) -> Any:
            raise RuntimeError("no compiler\nat all")

        return run

    monkeypatch.setattr(torch, "compile", refuse)
    with pytest.raises(MeasurementFailed, match=r"torch\.compile cannot run this .*no compiler\)"):
        measure_on(LocalDevice("compile"), model)
    with pytest.raises(UnknownName, match="eager"):
        LocalDevice("tensorrt")


def test_a_file_that_its_runtime_refuses_is_told_in_a_sentence(
    model: CompressedViT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("index: 0 Got: 3\nExpected: 8")

    monkeypatch.setattr(runtimes, "export_for_timing", lambda *_: None)
    monkeypatch.setattr(FORMATS.get("onnx"), "open", lambda path, device: Refusing())
    path, images = tmp_path / "m.onnx", torch.zeros(3, 3, 32, 32)
    with pytest.raises(ExportError, match=r"does not run the file \(RuntimeError: index: 0"):
        runtimes.measure_file(path, "onnx", "float32", images, model.original.whole)
