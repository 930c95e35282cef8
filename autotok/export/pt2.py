"""`torch.export` programs (.pt2), written and run by torch itself."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch
from torch import Tensor, nn

from autotok.errors import failure

from .formats import ExportFormat, Written, not_exported, register_format, without_stack_traces


@register_format("pt2")
class Pt2(ExportFormat):
    """Written and run by torch itself."""

    suffix = ".pt2"

    def write(
        self, model: nn.Module, images: Tensor, path: Path, *, dynamic_batch: bool
    ) -> Written:
        shapes = ({0: torch.export.Dim("batch")},) if dynamic_batch else None
        try:
            with without_stack_traces():
                program = torch.export.export(model, (images,), dynamic_shapes=shapes)
            with path.open("wb") as file:
                torch.export.save(program, file)
        except Exception as error:  # torch raises many types, some of them private
            raise not_exported(self.name, failure(error)[:200]) from error
        calls = (str(node.target) for node in program.graph.nodes if node.op == "call_function")
        return Written("torch.export", dict(Counter(calls).most_common()))

    def open(self, path: Path, device: torch.device) -> nn.Module:
        with path.open("rb") as file:
            return torch.export.load(file).module().to(device)

    def version(self, opened: nn.Module | None = None) -> str:
        return f"torch {torch.__version__}"
