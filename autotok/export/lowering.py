"""ONNX files in float16 and int8, made of float32 ones by ONNX Runtime's own tools.

int8 is static: linear layers and convolutions with constant weights, one scale per output channel,
activations with one scale a tensor and zero point 0, as TensorRT asks. Products of two activations
(attention, matching), norms and everything between stay in float32, and so does what a layer gives.
Where a few layers spoil the outputs, they stay in float32 as well: those whose inputs have outliers
far above their usual size, for one scale must hold both.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .onnx_session import onnx_session

LAYERS = ("MatMul", "Gemm", "Conv")
SPARED = 0.1
"""Share of the layers that may stay in float32 ..."""
PAYS = 0.5
"""... if that leaves at most this share of the error at the outputs."""
Images = NDArray[np.float32]


def halve(path: Path) -> None:
    """Make the file float16 inside; input and output stay float32."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    found = OnnxModel(convert_float_to_float16(onnx.load(str(path)), keep_io_types=True))
    found.topological_sort()  # its casts stand behind what reads them
    onnx.save(found.model, str(path))


def quantise(path: Path, images: Images, *, input_name: str, batch: int) -> tuple[str, ...]:
    """Names of the layers left in float32; the file is int8 now.

    Args:
        images: (n, C, H, W), to calibrate on, n a multiple of `batch`.
        input_name: Of the graph.
        batch: Images per run.
    """
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    ready, trial = (path.with_name(f"{word}-{path.name}") for word in ("ready", "trial"))
    quant_pre_process(str(path), str(ready), skip_symbolic_shape=True)  # constants folded
    layers = _layers(onnx.load(str(ready)))
    feeds = [{input_name: chunk} for chunk in np.split(images, len(images) // batch)]
    expected = _run(ready, feeds)
    _quantised(ready, path, list(layers), feeds)
    whole = _error(_run(path, feeds), expected)
    spared = _outliers(ready, layers, feeds)[: max(1, round(SPARED * len(layers)))]
    _quantised(ready, trial, [name for name in layers if name not in spared], feeds)
    pays = _error(_run(trial, feeds), expected) <= PAYS * whole
    if pays:
        os.replace(trial, path)
    for left in (ready, trial):
        left.unlink(missing_ok=True)
    _forget_domains(path)
    return tuple(spared) if pays else ()


def _forget_domains(path: Path) -> None:
    """Leave out operator sets that no node is of: the optimiser lists all that it knows, and an
    engine may ask for every one that a file names."""
    import onnx

    model = onnx.load(str(path))
    used = {node.domain for node in model.graph.node}
    named = [item for item in model.opset_import if item.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(named)
    onnx.save(model, str(path))


def _layers(model: Any) -> dict[str, str]:
    """Layers with constant weights by name, each with the name of its input tensor."""
    constant = {tensor.name for tensor in model.graph.initializer}
    return {
        node.name: node.input[0]
        for node in model.graph.node
        if node.op_type in LAYERS and node.input[1] in constant and node.input[0] not in constant
    }


def _quantised(
    source: Path, target: Path, layers: Sequence[str], feeds: Sequence[dict[str, Images]]
) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left: Iterator[dict[str, Images]] = iter(feeds)

        def get_next(self) -> dict[str, Images] | None:
            return next(self._left, None)

    quantize_static(
        str(source),
        str(target),
        Reader(),
        op_types_to_quantize=list(LAYERS),
        nodes_to_quantize=list(layers),
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        extra_options={
            "ActivationSymmetric": True,
            "OpTypesToExcludeOutputQuantization": list(LAYERS),
        },
    )


def _outliers(path: Path, layers: dict[str, str], feeds: Sequence[dict[str, Images]]) -> list[str]:
    """Layers by the largest of their inputs over the mean one, whatever the sign, worst first."""
    import onnx

    model = onnx.load(str(path))
    names = sorted({*layers.values()} - {*feeds[0]})
    for name in names:
        kind = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        model.graph.output.append(kind)
    session, top, mean = onnx_session(model.SerializeToString()), Counter[str](), Counter[str]()
    for feed in feeds:
        for name, value in {
            **feed,
            **dict(zip(names, session.run(names, feed), strict=True)),
        }.items():
            size = np.abs(value)
            top[name] = max(top[name], size.max())
            mean[name] += size.mean() / len(feeds)
    return sorted(layers, key=lambda layer: -top[layers[layer]] / (mean[layers[layer]] or 1.0))


def _run(path: Path, feeds: Sequence[dict[str, Images]]) -> Images:
    session = onnx_session(path.read_bytes())
    found: Images = np.concatenate([session.run(None, feed)[0] for feed in feeds])
    return found


def _error(found: Images, expected: Images) -> float:
    """Root mean square of the difference over that of what was expected."""
    return float(np.sqrt(np.square(found - expected).mean() / np.square(expected).mean()))
