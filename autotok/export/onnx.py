"""ONNX files: written by torch's exporter, read and run by onnxruntime."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autotok.errors import ExportError

__all__ = ["OLDER", "OPSET", "onnx_operators", "output_name", "run_onnx", "write_onnx"]

logger = logging.getLogger(__name__)
OPSET = 18
OLDER = "torchscript"
"""What steps in where torch's default exporter fails."""
INPUT = "images"


def output_name(num_classes: int) -> str:
    """What a file calls its output: a model without a head gives features."""
    return "logits" if num_classes else "features"


def write_onnx(
    model: nn.Module, images: Tensor, path: Path, *, output: str, dynamic_batch: bool
) -> str:
    """The exporter that wrote `path`: 'dynamo', or 'torchscript' where that one failed.

    `output` is what the file calls its output.

    Raises:
        ExportError: both failed; the message holds the first exporter's reason.
    """
    try:
        _write_dynamo(model, images, path, output, dynamic_batch)
        return "dynamo"
    except Exception as error:  # the exporter raises many types, some of them private
        reason = _first_line(error)
        logger.warning("torch's default ONNX exporter failed (%s); trying the older one", reason)
    axes = {INPUT: {0: "batch"}, output: {0: "batch"}} if dynamic_batch else None
    try:
        torch.onnx.export(
            model,
            (images,),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[output],
            dynamic_axes=axes,
        )
    except Exception as error:
        raise ExportError(
            f"the model cannot be exported to ONNX: {reason}; the older exporter failed too"
            f" ({_first_line(error)}); try --format pt2 or torchscript"
        ) from error
    return OLDER


def _write_dynamo(
    model: nn.Module, images: Tensor, path: Path, output: str, dynamic_batch: bool
) -> None:
    shapes = ({0: torch.export.Dim("batch")},) if dynamic_batch else None
    program = torch.onnx.export(
        model,
        (images,),
        dynamo=True,
        verbose=False,
        opset_version=OPSET,
        input_names=[INPUT],
        output_names=[output],
        dynamic_shapes=shapes,
    )
    assert program is not None
    program.save(str(path), external_data=False)


def run_onnx(path: Path, images: Tensor, batch: int) -> Tensor:
    """(n, classes) of images (n, C, H, W), in onnxruntime on the CPU, `batch` at a time."""
    session = _session(path)
    chunks = [
        torch.from_numpy(session.run(None, {INPUT: chunk.numpy()})[0])
        for chunk in images.split(batch)
    ]
    return torch.cat(chunks)


def onnx_operators(path: Path) -> dict[str, int]:
    """How often each operator occurs, most frequent first; sub-graphs and functions included."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    onnx.checker.check_model(model)
    counts: Counter[str] = Counter()
    graphs: list[Any] = [model.graph, *model.functions]
    while graphs:
        for node in graphs.pop().node:
            counts[node.op_type] += 1
            graphs += [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
    return dict(counts.most_common())


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    content = path.read_bytes()  # which takes any name that Python can open
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _first_line(error: Exception) -> str:
    """The innermost cause in one line: exporters wrap the reason several times."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__
