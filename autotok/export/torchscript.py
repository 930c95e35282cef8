"""Traced TorchScript (.pt), which boards with torch run."""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autotok.errors import failure

from .formats import ExportFormat, Written, not_exported, register_format
from .graph_parts import GraphPart, array_runner
from .infer import PartRunner


@register_format("torchscript")
class TorchScript(ExportFormat):
    """Written and run by torch itself; a trace takes its batch from the example."""

    suffix = ".pt"
    open_batch = False
    takes_parts = True
    board_runtimes = ("torch",)

    def write(
        self, model: nn.Module, images: Tensor, path: Path, *, dynamic_batch: bool
    ) -> Written:
        return self._written(model, (images,), path)

    def write_part(self, part: GraphPart, example: tuple[Tensor, ...], path: Path) -> Written:
        return self._written(part, example, path)

    def _written(self, model: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> Written:
        try:
            with _deprecated():
                traced: Any = torch.jit.trace(model, inputs, check_trace=False)
                traced = torch.jit.freeze(traced.eval())
                with path.open("wb") as file:
                    torch.jit.save(traced, file)
        except Exception as error:  # torch raises many types, some of them private
            raise not_exported(self.name, failure(error)[:200]) from error
        kinds = (node.kind() for node in traced.inlined_graph.nodes())
        calls = Counter(kind for kind in kinds if kind.startswith("aten::"))
        return Written("torch.jit.trace", dict(calls.most_common()))

    def open(self, path: Path, device: torch.device) -> nn.Module:
        with path.open("rb") as file, _deprecated():
            opened: nn.Module = torch.jit.load(file, map_location=device)
        return opened

    def open_part(self, path: Path) -> PartRunner:
        return array_runner(self.open(path, torch.device("cpu")))

    def version(self, opened: nn.Module | None = None) -> str:
        return f"torch {torch.__version__}"


@contextlib.contextmanager
def _deprecated() -> Iterator[None]:
    """Newer versions of torch say at each step that it is, which who asks for the format knows."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)
        yield
