"""TensorRT: the ONNX file, the exact command, and a runner, none of which claims to have run."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from exporting import compressed, photos

from autotok.backbones.tiny import tiny_backbone
from autotok.devices import board
from autotok.export.exported import export_model
from autotok.export.formats import Written, chosen_format
from autotok.export.onnx import Onnx


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
    assert "\nflags=''  # computes in float32; with --fp16 as" in text
    assert 'trtexec --onnx=m.onnx --saveEngine=m.engine $flags "$@"' in text
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
    assert "\nflags='--int8 --fp16'  # computes in int8 where" in text
    assert "--saveEngine=m.engine $flags --minShapes=images:1x3x32x32" in text
    assert "--loadEngine=m.engine --shapes=images:1x3x32x32" in text
    assert "QuantizeLinear: its zero point must be 0" in text


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[str]]]:
    """What trtexec is told by the script of a file, which nobody writes."""
    record = '#!/bin/sh\nprintf "%s\\n" "$@" end >> said\n'
    (tmp_path / "trtexec").write_text(record)
    (tmp_path / "trtexec").chmod(0o755)
    monkeypatch.setattr(Onnx, "write", lambda *_, **__: Written("dynamo", {}))
    monkeypatch.setattr(Onnx, "lower", lambda *_, **__: Written("made up", {}))

    def run(precision: str, *words: str, name: str = "m.onnx", **how: Any) -> list[list[str]]:
        chosen, path = chosen_format("tensorrt", precision=precision, **how), tmp_path / name
        images = torch.zeros(32, 3, 8, 8)
        chosen.write(torch.nn.Identity(), images, path, dynamic_batch=True)
        if precision != "float32":
            chosen.lower(path, precision, images, batch=32)
        asked = ["sh", str(path.with_suffix(".trtexec.sh")), *words]
        (tmp_path / "said").unlink(missing_ok=True)
        subprocess.run(asked, check=True, env={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
        calls = (tmp_path / "said").read_text("utf-8").split("\nend\n")
        return [call.split("\n") for call in calls if call]

    return run


@pytest.mark.parametrize(
    ("precision", "how", "flags"),
    [
        ("float32", {}, []),
        ("float16", {}, ["--stronglyTyped"]),
        ("float16", {"opset": 17}, ["--fp16"]),  # TensorRT 8 knows no other
        ("int8", {"opset": 16}, ["--int8", "--fp16"]),
    ],
)
def test_an_engine_computes_in_the_number_format_of_its_file_as_on_boards(
    told: Callable[..., list[list[str]]], precision: str, how: dict[str, int], flags: list[str]
) -> None:
    build, time = told(precision, "--verbose", **how)
    assert build[:2] == ["--onnx=m.onnx", "--saveEngine=m.engine"]
    assert build[2 : 2 + len(flags)] == flags
    assert build[2 + len(flags)].startswith("--minShapes")
    assert build[-2:] == ["--maxShapes=images:32x3x8x8", "--verbose"]
    assert "--loadEngine=m.engine" in time
    if not (precision == "float16" and how):
        assert board.FILE_FLAGS.get(precision, []) == flags


def test_any_name_of_a_file_is_one_word_of_the_command(
    told: Callable[..., list[list[str]]], tmp_path: Path
) -> None:
    name = "it's $(touch here) --fp16"
    build, time = told("float16", name=f"{name}.onnx")
    assert build[:3] == [f"--onnx={name}.onnx", f"--saveEngine={name}.engine", "--stronglyTyped"]
    assert time[0] == f"--loadEngine={name}.engine"
    assert not (tmp_path / "here").exists()
