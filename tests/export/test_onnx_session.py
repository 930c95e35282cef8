"""ONNX Runtime as this project opens files in it: int8 sums that do not overflow."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import autotok
from autotok.devices import board
from autotok.export import infer, onnx_session
from autotok.export.onnx import OnnxSession

PACKAGE = Path(autotok.__file__).parent
WIDE = 64


def loud(path: Path) -> None:
    """An int8 product whose pairs of terms are all beyond 16 bits: 2 * 255 * 127."""
    tensors = {
        "one": np.float32(1.0),
        "zero": np.int8(0),
        "weights": np.full((WIDE, 8), 127, np.int8),
    }
    nodes = [
        ("QuantizeLinear", ["images", "one", "zero"], "q"),
        ("DequantizeLinear", ["q", "one", "zero"], "x"),
        ("DequantizeLinear", ["weights", "one", "zero"], "w"),
        ("MatMul", ["x", "w"], "logits"),
    ]
    graph = helper.make_graph(
        [helper.make_node(kind, inputs, [output]) for kind, inputs, output in nodes],
        "loud",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, WIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 8])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
    )
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))


def in_session(path: Path, images: np.ndarray) -> np.ndarray:
    return OnnxSession(path, torch.device("cpu"))(torch.from_numpy(images)).numpy()


def alone(path: Path, images: np.ndarray) -> np.ndarray:
    spec: dict[str, Any] = {"file": path.name, "input": {"shape": [1, WIDE]}}
    return infer.open_model(path.parent, spec).run(None, {"images": images})[0]


@pytest.mark.parametrize("run", [in_session, alone])
def test_int8_sums_are_whole(run: Callable[..., np.ndarray], tmp_path: Path) -> None:
    loud(tmp_path / "loud.onnx")
    images = np.full((1, WIDE), 127, np.float32)
    found = run(tmp_path / "loud.onnx", images)
    np.testing.assert_array_equal(found, np.full((1, 8), WIDE * 127 * 127, np.float32))


def test_the_files_that_stand_alone_know_the_same_option() -> None:
    assert infer.EXACT_INT8 == board.EXACT_INT8 == onnx_session.EXACT_INT8


def test_nobody_opens_a_session_without_it() -> None:
    made = re.compile(r"\.InferenceSession\(")
    openers = [path for path in PACKAGE.rglob("*.py") if made.search(path.read_text("utf-8"))]
    assert len(openers) == 3
    for path in openers:
        assert "add_session_config_entry(*EXACT_INT8)" in path.read_text("utf-8"), path
