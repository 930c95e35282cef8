"""torch's own formats: `torch.export` programs (.pt2) and traced TorchScript (.pt)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autotok.errors import ExportError

__all__ = ["run_pt2", "run_torchscript", "write_pt2", "write_torchscript"]

Counts = dict[str, int]


def write_pt2(model: nn.Module, images: Tensor, path: Path, *, dynamic_batch: bool) -> Counts:
    """Operators of the exported program, now in `path`."""
    shapes = ({0: torch.export.Dim("batch")},) if dynamic_batch else None
    try:
        program = torch.export.export(model, (images,), dynamic_shapes=shapes)
        with path.open("wb") as file:
            torch.export.save(program, file)
    except Exception as error:  # torch raises many types, some of them private
        raise _failed("pt2", error) from error
    calls = (str(node.target) for node in program.graph.nodes if node.op == "call_function")
    return dict(Counter(calls).most_common())


def write_torchscript(
    model: nn.Module, images: Tensor, path: Path, *, dynamic_batch: bool
) -> Counts:
    """Operators of the trace, now in `path`; a trace takes its batch from the example."""
    try:
        traced: Any = torch.jit.trace(model, images, check_trace=False)
        traced = torch.jit.freeze(traced.eval())
        with path.open("wb") as file:
            torch.jit.save(traced, file)
    except Exception as error:
        raise _failed("TorchScript", error) from error
    kinds = (node.kind() for node in traced.inlined_graph.nodes())
    return dict(Counter(kind for kind in kinds if kind.startswith("aten::")).most_common())


def run_pt2(path: Path, images: Tensor, batch: int) -> Tensor:
    """(n, classes) of images (n, C, H, W), `batch` at a time."""
    with path.open("rb") as file:
        return _run(torch.export.load(file).module(), images, batch)


def run_torchscript(path: Path, images: Tensor, batch: int) -> Tensor:
    """(n, classes) of images (n, C, H, W), `batch` at a time."""
    with path.open("rb") as file:
        return _run(torch.jit.load(file), images, batch)


def _run(module: Callable[[Tensor], Tensor], images: Tensor, batch: int) -> Tensor:
    with torch.no_grad():
        return torch.cat([module(chunk) for chunk in images.split(batch)])


def _failed(kind: str, error: Exception) -> ExportError:
    lines = str(error).strip().splitlines()
    reason = lines[0][:160] if lines else type(error).__name__
    return ExportError(
        f"the model cannot be exported to {kind}: {type(error).__name__}: {reason};"
        " try another --format (onnx, pt2, torchscript)"
    )
