"""TensorRT: the ONNX file, the exact command, and a runner, none of which claims to have run."""

import subprocess
from pathlib import Path

import pytest
from exporting import compressed, photos

from autotok.backbones.tiny import tiny_backbone
from autotok.export.exported import export_model

ONLY = "trtexec --onnx=m.onnx --saveEngine=m.engine --fp16"


def script(folder: Path) -> str:
    path = folder / "m.trtexec.sh"
    subprocess.run(["sh", "-n", str(path)], check=True)
    return path.read_text("utf-8")


@pytest.mark.slow
def test_the_command_builds_and_times_the_file_beside_it(tmp_path: Path) -> None:
    model = compressed("topk", tiny_backbone())
    result = export_model(model, tmp_path / "m.onnx", photos(), format="tensorrt")
    assert {f.name for f in tmp_path.iterdir()} == {
        "m.onnx", "m.trtexec.sh", "m.trt_runner.py"
    }  # fmt: skip
    text = script(tmp_path)
    assert f'{ONLY} "$@"' in text
    assert "trtexec --loadEngine=m.engine --useCudaGraph" in text
    assert "#   TensorRT 8.5 (JetPack 5): no: operator set 18 is above its 17" in text
    assert "there is no TensorRT here" in result.notes[0]
    compile((tmp_path / "m.trt_runner.py").read_text("utf-8"), "runner", "exec")


@pytest.mark.slow
def test_number_format_and_batch_are_in_the_command(tmp_path: Path) -> None:
    model = compressed("none", tiny_backbone())
    export_model(
        model,
        tmp_path / "m.onnx",
        photos(4),
        format="tensorrt",
        precision="int8",
        dynamic_batch=True,
    )
    text = script(tmp_path)
    assert "--saveEngine=m.engine --int8 --fp16 --minShapes=images:1x3x32x32" in text
    assert "--loadEngine=m.engine --shapes=images:1x3x32x32" in text
    assert "QuantizeLinear: its zero point must be 0" in text
