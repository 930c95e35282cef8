"""float32 files made into int8 ones: which layers, with which scales, and what stays as it was."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from autotok.export.lowering import quantise


def two_layers(path: Path) -> None:
    """`first` sees one huge channel, which its weights ignore, and `second` nothing unusual."""
    rng = np.random.default_rng(0)
    first = rng.normal(size=(8, 8)).astype(np.float32)
    first[0] = 0.0
    weights = {"a": first, "b": rng.normal(size=(8, 4)).astype(np.float32)}
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["images", "a"], ["middle"], name="first"),
            helper.make_node("Tanh", ["middle"], ["bent"], name="bend"),
            helper.make_node("MatMul", ["bent", "b"], ["logits"], name="second"),
        ],
        "two",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))


def quantised_layers(path: Path) -> set[str]:
    graph = onnx.load(str(path)).graph
    made = {out: node.op_type for node in graph.node for out in node.output}
    return {n.name for n in graph.node if made.get(n.input[0]) == "DequantizeLinear"}


def images(outlier: float) -> np.ndarray:
    found = np.random.default_rng(1).normal(size=(16, 8)).astype(np.float32)
    found[:, 0] = outlier
    return found


def test_a_layer_whose_input_has_outliers_stays_in_float32(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    two_layers(path)
    assert quantise(path, images(500.0), input_name="images", batch=1) == ("first",)
    assert quantised_layers(path) == {"second"}
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_where_sparing_a_layer_does_not_pay_all_are_int8(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    two_layers(path)
    assert quantise(path, images(1.0), input_name="images", batch=1) == ()
    assert quantised_layers(path) == {"first", "second"}


def test_zero_points_are_zero_and_weights_have_a_scale_per_channel(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    two_layers(path)
    quantise(path, images(1.0), input_name="images", batch=1)
    graph = onnx.load(str(path)).graph
    values = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    points = [v for name, v in values.items() if name.endswith("zero_point")]
    assert points
    assert all((point == 0).all() for point in points)
    assert sorted(v.size for name, v in values.items() if name.endswith("scale")) == [1, 1, 4, 8]
