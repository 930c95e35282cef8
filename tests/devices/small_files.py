"""What the tests of remote boards share: a small ONNX file, and when they can run."""

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import sshd as server
from onnx import TensorProto, helper, numpy_helper

from autotok.errors import AutotokError

SHAPE = (1, 3, 8, 8)
needs_sshd = pytest.mark.skipif(bool(server.WHY_NOT), reason=server.WHY_NOT or "-")


def onnx_file(path: Path, *, repeats: int = 1, width: int = 16) -> Path:
    """A small model; with many repeats, one that wants 768 bytes times as many."""
    weight = np.random.default_rng(0).normal(size=(192, width)).astype(np.float32)
    times = np.array([repeats, 1, 1, 1], dtype=np.int64)
    nodes = [
        helper.make_node("Tile", ["images", "times"], ["tiled"]),
        helper.make_node("Flatten", ["tiled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["all"]),
        helper.make_node("ReduceMax", ["all"], ["logits"], keepdims=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(times, "times")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path))
    return path


def one_sentence(error: AutotokError) -> bool:
    text = str(error)
    return "\n" not in text and "Traceback" not in text and not re.search(r"[a-z]\. [A-Z]", text)
