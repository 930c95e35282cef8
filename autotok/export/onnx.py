"""ONNX files: written by torch's exporter, read and run by onnxruntime."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autotok.config import NUMBERS
from autotok.errors import ExportError, failure

from .engines import engine_verdicts
from .formats import (
    INPUT,
    ExportFormat,
    Written,
    not_exported,
    register_format,
    without_stack_traces,
)
from .graph_parts import GraphPart
from .infer import PartRunner, part_runner
from .onnx_session import Provider, onnx_session

logger = logging.getLogger(__name__)
# what torch's default exporter writes itself; it converts to others
OPSET = 18
_CUDA = "CUDAExecutionProvider"
RISKY = frozenset({"NonZero", "Loop", "If", "Scan", "Unique", "NonMaxSuppression", "Compress"})
"""Operators whose output shape depends on data, or control flow: engines often refuse them."""


def output_name(num_classes: int) -> str:
    """What a file calls its output: a model without a head gives features."""
    return "logits" if num_classes else "features"


@register_format("onnx")
class Onnx(ExportFormat):
    """For onnxruntime, TensorRT and whatever else reads it."""

    suffix = ".onnx"
    opset: int = OPSET
    opsets = (14, 21)
    precisions = NUMBERS
    stand_in = "torchscript"
    runtime: str | None = "onnxruntime"
    board_runtimes: tuple[str, ...] = ("onnxruntime", "trtexec")
    takes_parts: bool = True

    def check(self) -> None:
        try:
            import onnx
            import onnxscript  # noqa: F401

            value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
            node = onnx.helper.make_node("Identity", ["x"], ["y"])
            result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
            graph = onnx.helper.make_graph([node], "trivial", [value], [result])
            opsets = [onnx.helper.make_opsetid("", OPSET)]
            model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
            onnx_session(model.SerializeToString())
        except Exception as error:  # a broken build raises anything, ImportError to OSError
            raise ExportError(
                f"ONNX files cannot be made here ({failure(error)[:160]}); mend it with"
                " `pip install --force-reinstall onnx onnxruntime onnxscript`, and see"
                " `autotok doctor`"
            ) from error

    def takes(self, operator: str) -> bool:
        return operator not in RISKY

    def engines(self, operators: Iterable[str]) -> dict[str, str]:
        return engine_verdicts(operators, self.opset)

    def write(
        self, model: nn.Module, images: Tensor, path: Path, *, dynamic_batch: bool
    ) -> Written:
        """By the default exporter 'dynamo', or by 'torchscript' where that one failed and for
        operator sets that it does not write."""
        facts = getattr(getattr(model, "backbone", model), "facts", None)
        output = output_name(1 if facts is None else facts.num_classes)
        graph = _Graph(model, (images,), (INPUT,), (output,), dynamic_batch)
        return self._written(graph, path)

    def write_part(self, part: GraphPart, example: tuple[Tensor, ...], path: Path) -> Written:
        return self._written(_Graph(part, example, part.takes, part.gives), path)

    def _written(self, graph: _Graph, path: Path) -> Written:
        reason = f"its operator set begins at {OPSET}"
        if self.opset >= OPSET:
            try:
                _write_dynamo(graph, path, self.opset)
            except Exception as error:  # the exporter raises many types, some of them private
                reason = _innermost(error)
                logger.warning(
                    "torch's default ONNX exporter failed (%s); trying the older one", reason
                )
            else:
                return Written("dynamo", _operators(path))
        names = (*graph.takes, *graph.gives)
        axes = {name: {0: "batch"} for name in names} if graph.dynamic_batch else None
        try:
            torch.onnx.export(
                _Plain(graph.model),
                graph.inputs,
                str(path),
                dynamo=False,
                opset_version=self.opset,
                input_names=list(graph.takes),
                output_names=list(graph.gives),
                dynamic_axes=axes,
            )
        except Exception as error:
            both = f"{reason}; the older exporter failed too ({_innermost(error)})"
            raise not_exported(self.name, both) from error
        return Written(self.stand_in, _operators(path))

    def lower(self, path: Path, precision: str, images: Tensor, *, batch: int) -> Written:
        """By ONNX Runtime's own converter and quantiser."""
        from .lowering import halve, quantise

        try:
            if precision == "float16":
                halve(path)
                return Written("onnxruntime float16", _operators(path))
            kept = quantise(path, images.numpy(), input_name=INPUT, batch=batch)
        except Exception as error:  # the tools raise what their graph surgery leads them to
            raise not_exported(self.name, f"{precision}: {_innermost(error)}") from error
        return Written("onnxruntime static QDQ", _operators(path), kept_float=kept)

    def open(self, path: Path, device: torch.device) -> nn.Module:
        return OnnxSession(path, device)

    def runs_on(self, opened: nn.Module) -> torch.device:
        return opened.device if isinstance(opened, OnnxSession) else super().runs_on(opened)

    def open_part(self, path: Path) -> PartRunner:
        return part_runner(onnx_session(path.read_bytes(), threads=torch.get_num_threads()))

    def version(self, opened: nn.Module | None = None) -> str:
        import onnxruntime

        provider = f" {opened.provider}" if isinstance(opened, OnnxSession) else ""
        return f"onnxruntime {onnxruntime.__version__}{provider}"


class OnnxSession(nn.Module):
    """An ONNX file in onnxruntime, with as many threads as torch has."""

    def __init__(self, path: Path, device: torch.device) -> None:
        super().__init__()
        import onnxruntime

        providers: list[Provider] = ["CPUExecutionProvider"]
        if device.type == "cuda" and _CUDA in onnxruntime.get_available_providers():
            providers.insert(0, (_CUDA, {"device_id": device.index or 0}))
        self._session = onnx_session(
            path.read_bytes(),  # which takes any name that Python can open
            threads=torch.get_num_threads(),
            providers=providers,
        )
        self.provider = str(self._session.get_providers()[0])
        self.device = device if self.provider == _CUDA else torch.device("cpu")

    def forward(self, images: Tensor) -> Tensor:
        """(batch, classes), on the host."""
        found = self._session.run(None, {INPUT: images.float().cpu().numpy()})
        return torch.from_numpy(found[0])


@dataclass(frozen=True)
class _Graph:
    """What is to be written, with the names of its tensors."""

    model: nn.Module
    inputs: tuple[Tensor, ...]
    takes: tuple[str, ...]
    gives: tuple[str, ...]
    dynamic_batch: bool = False


class _Plain(nn.Module):
    """A model that takes tensors and nothing else: the older exporter hands on the defaults of
    every further parameter, by place even where it goes by keyword alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> Any:
        return self.model(*inputs)


def _write_dynamo(graph: _Graph, path: Path, opset: int) -> None:
    shapes = ({0: torch.export.Dim("batch")},) if graph.dynamic_batch else None
    with without_stack_traces():
        program = torch.onnx.export(
            graph.model,
            graph.inputs,
            dynamo=True,
            verbose=False,
            opset_version=opset,
            input_names=list(graph.takes),
            output_names=list(graph.gives),
            dynamic_shapes=shapes,
            optimize=False,
        )
    assert program is not None
    _folded(program.model)
    program.save(str(path), external_data=False)


def _folded(model: Any) -> None:
    """Work out what is constant and drop what nobody uses, in place.

    The exporter's own `optimize` tries patterns against every node besides, which takes nearly all
    of its time and is nothing that a runtime would not do on loading.
    """
    import onnx_ir
    from onnx_ir.passes import common
    from onnxscript import optimizer

    unused: Any = common.RemoveUnusedFunctionsPass  # not annotated
    # types first: an older operator set came by a conversion that forgets them
    onnx_ir.passes.Sequential(common.InlinePass(), common.ShapeInferencePass())(model)
    optimizer.fold_constants(model)
    onnx_ir.passes.Sequential(
        common.RemoveUnusedNodesPass(),
        unused(),
        common.RemoveUnusedOpsetsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    )(model)


def _operators(path: Path) -> dict[str, int]:
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


def _innermost(error: Exception) -> str:
    """The innermost cause in one line: exporters wrap the reason several times."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return failure(error)[:200]
