"""ONNX files: which exporter wrote them, and for which batch."""

import sys
from pathlib import Path

import onnx
import pytest
import torch
from exporting import compressed, photos
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "backbones"))

from hf_models import hf_backbone

from autotok.backbones.tiny import tiny_backbone
from autotok.errors import ExportError, UsageError
from autotok.export import onnx as onnx_room
from autotok.export.exported import export_model
from autotok.export.formats import FORMATS, check_format


def test_a_file_of_dynamic_batch_takes_any_batch(tmp_path: Path) -> None:
    model = compressed("topk", tiny_backbone())
    path = tmp_path / "model.onnx"
    result = export_model(model, path, photos(4), dynamic_batch=True)
    assert result.batch == "dynamic"
    with torch.inference_mode():
        expected = model(photos(3))
    assert torch.allclose(FORMATS.get("onnx").run(path, photos(3), 3), expected, atol=1e-4)


@pytest.mark.parametrize("name", ["gtp", "ltp"])
def test_a_diagonal_is_exported_to_operators_that_are_run(name: str, tmp_path: Path) -> None:
    model = compressed(name, tiny_backbone()).eval()
    assert export_model(model, tmp_path / "m.onnx", photos(), opset=17).ok


def test_the_older_exporter_takes_models_that_are_asked_by_keyword_too(tmp_path: Path) -> None:
    model = compressed("evit", hf_backbone("ViTForImageClassification"))
    result = export_model(model, tmp_path / "m.onnx", photos(), opset=16)
    assert (result.ok, result.exporter, result.opset) == (True, "torchscript", 16)


def test_a_fixed_batch_is_written_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    result = export_model(compressed("none", tiny_backbone()), path, photos(3), batch=2)
    graph = onnx.load(str(path)).graph
    shape = graph.input[0].type.tensor_type.shape
    assert [d.dim_value for d in shape.dim] == [2, 3, 32, 32]
    assert (result.batch, result.num_images) == (2, 3)
    assert __file__ not in str(graph)  # no stack traces: no paths of this machine
    assert not torch.fx.config.do_not_emit_stack_traces  # other exports are as they were


def test_the_older_exporter_steps_in_and_the_result_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no decomposition for aten::mystery")

    monkeypatch.setattr(onnx_room, "_write_dynamo", fail)
    result = export_model(compressed("none", tiny_backbone()), tmp_path / "m.onnx", photos())
    assert result.exporter == "torchscript"
    assert result.max_abs_diff < 1e-4


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_file_of_the_older_exporter_that_disagrees_is_refused_even_if_not_strict(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no decomposition for aten::mystery")

    def wrong(path: Path, images: Tensor, batch: int) -> Tensor:
        return torch.arange(10.0).repeat(len(images), 1)

    monkeypatch.setattr(onnx_room, "_write_dynamo", fail)
    monkeypatch.setattr(FORMATS.get("onnx"), "run", wrong)
    path = tmp_path / "m.onnx"
    with pytest.raises(ExportError, match=r"file, written by 'torchscript' after .* disagrees"):
        export_model(
            compressed("none", tiny_backbone()), path, photos(), precision=precision, strict=False
        )
    assert not path.exists()


def test_an_int8_file_is_static_and_asks_for_what_tensorrt_takes(tmp_path: Path) -> None:
    model, path = compressed("topk", tiny_backbone()), tmp_path / "m.onnx"
    result = export_model(model, path, photos(8), precision="int8", calibration=photos(16))
    assert (result.precision, result.exporter) == ("int8", "onnxruntime static QDQ")
    assert result.operators["QuantizeLinear"] > 10
    assert result.max_rel_diff < 0.1
    assert "QuantizeLinear: its zero point must be 0" in result.engines["tensorrt-10"]
    values = onnx.load(str(path)).graph.initializer
    points = [onnx.numpy_helper.to_array(t) for t in values if t.name.endswith("zero_point")]
    assert all((point == 0).all() for point in points)


@pytest.mark.slow
def test_a_float16_file_takes_and_gives_float32(tmp_path: Path) -> None:
    model, path = compressed("none", tiny_backbone()), tmp_path / "m.onnx"
    result = export_model(model, path, photos(), precision="float16")
    assert 0.0 < result.max_rel_diff < 0.01
    graph = onnx.load(str(path)).graph
    kinds = {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
    assert kinds == {onnx.TensorProto.FLOAT}
    assert any(t.data_type == onnx.TensorProto.FLOAT16 for t in graph.initializer)


@pytest.mark.slow
def test_an_older_operator_set_is_for_engines_that_know_no_newer_one(tmp_path: Path) -> None:
    model = compressed("tome", tiny_backbone())
    result = export_model(model, tmp_path / "m.onnx", photos(), opset=16)
    assert (result.opset, result.exporter) == (16, "torchscript")
    assert result.max_abs_diff < 1e-4
    assert "LayerNormalization" not in result.operators
    assert result.engines["tensorrt-8.5"].startswith("yes")
    assert export_model(model, tmp_path / "n.onnx", photos()).engines["tensorrt-8.5"] == (
        "no: operator set 18 is above its 17, no LayerNormalization"
    )


@pytest.mark.parametrize(
    ("format", "given", "message"),
    [
        ("onnx", {"opset": 9}, "operator set 9 cannot be written to onnx files; give --opset 14"),
        ("pt2", {"opset": 16}, "pt2 files have no operator set; leave --opset out"),
        ("pt2", {"precision": "int8"}, "pt2 files come in float32 here, not in int8; try --format"),
        ("onnx", {"precision": "int7"}, "'int7' is unknown; did you mean 'int8'"),
    ],
)
def test_what_a_format_does_not_come_in_is_told_before_any_work(
    format: str, given: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        check_format(format, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("able", [True, False])
def test_a_session_says_which_gpu_runs_it_or_that_none_does(
    able: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[object] = []

    class Session:
        def __init__(self, model: bytes, *, threads: int, providers: list[object]) -> None:
            given.extend(providers)

        def get_providers(self) -> list[object]:
            return [name if isinstance(name, str) else name[0] for name in given]  # type: ignore[index]

    there = ["CUDAExecutionProvider"] if able else []
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: there)
    monkeypatch.setattr(onnx_room, "onnx_session", Session)
    (tmp_path / "m.onnx").touch()
    opened = FORMATS.get("onnx").open(tmp_path / "m.onnx", torch.device("cuda", 1))
    runs_on = FORMATS.get("onnx").runs_on(opened)
    if able:
        assert given == [("CUDAExecutionProvider", {"device_id": 1}), "CPUExecutionProvider"]
        assert runs_on == torch.device("cuda", 1)
    else:
        assert (given, runs_on) == (["CPUExecutionProvider"], torch.device("cpu"))
