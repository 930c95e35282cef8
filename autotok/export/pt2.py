"""`torch.export` programs (.pt2), written and run by torch itself."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autotok.errors import failure

from .formats import ExportFormat, Written, not_exported, register_format, without_stack_traces
from .graph_parts import GraphPart, array_runner
from .infer import PartRunner


@register_format("pt2")
class Pt2(ExportFormat):
    """Written and run by torch itself."""

    suffix = ".pt2"
    takes_parts = True

    def write(
        self, model: nn.Module, images: Tensor, path: Path, *, dynamic_batch: bool
    ) -> Written:
        return self._written(model, (images,), path, dynamic_batch=dynamic_batch)

    def write_part(self, part: GraphPart, example: tuple[Tensor, ...], path: Path) -> Written:
        return self._written(part, example, path, dynamic_batch=False, trims=True)

    def _written(
        self,
        model: nn.Module,
        inputs: tuple[Tensor, ...],
        path: Path,
        *,
        dynamic_batch: bool,
        trims: bool = False,
    ) -> Written:
        """`trims`: without the weights that the graph does not use, which a program else keeps."""
        shapes = ({0: torch.export.Dim("batch")},) if dynamic_batch else None
        try:
            with without_stack_traces():
                program = torch.export.export(model, inputs, dynamic_shapes=shapes)
                if trims:
                    alone: Any = program.module()
                    alone.graph.eliminate_dead_code()
                    alone.delete_all_unused_submodules()
                    program = torch.export.export(alone, inputs)
            with path.open("wb") as file:
                torch.export.save(program, file)
        except Exception as error:  # torch raises many types, some of them private
            raise not_exported(self.name, failure(error)[:200]) from error
        calls = (str(node.target) for node in program.graph.nodes if node.op == "call_function")
        return Written("torch.export", dict(Counter(calls).most_common()))

    def open(self, path: Path, device: torch.device) -> nn.Module:
        with path.open("rb") as file:
            return torch.export.load(file).module().to(device)

    def open_part(self, path: Path) -> PartRunner:
        return array_runner(self.open(path, torch.device("cpu")))

    def version(self, opened: nn.Module | None = None) -> str:
        return f"torch {torch.__version__}"
