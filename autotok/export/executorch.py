"""ExecuTorch programs (.pte): XNNPACK runs what it takes, ExecuTorch's own kernels the rest.

They are run on the CPU; executorch is the extra 'executorch'.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autotok.errors import ExportError, failure

from .formats import ExportFormat, Written, not_exported, register_format, without_stack_traces

_DELEGATES = ("XnnpackBackend",)


def _sorted(x: Tensor, dim: int = -1, descending: bool = False) -> tuple[Tensor, Tensor]:
    """(values, indices), by the kernel that the runtime has; it has none that sorts."""
    return torch.ops.aten.topk(x, x.shape[dim], dim, descending, True)  # type: ignore[no-any-return]


def _order(x: Tensor, dim: int = -1, descending: bool = False) -> Tensor:
    """The indices of `_sorted`."""
    return _sorted(x, dim, descending)[1]


def _added(x: Tensor, y: Tensor, *, alpha: float = 1) -> Tensor:
    """The sum with a multiple, which the runtime's kernel of integers does not multiply."""
    return NotImplemented if alpha == 1 else x + y * alpha


_KERNELS = {
    torch.ops.aten.sort.default: _sorted,
    torch.ops.aten.argsort.default: _order,
    torch.ops.aten.add.Tensor: _added,
}
"""What is written in other words, because the runtime lacks or misreads it."""


@register_format("executorch")
class ExecuTorch(ExportFormat):
    """For phones and boards that run ExecuTorch; a program takes its batch from the example."""

    suffix = ".pte"
    open_batch = False
    runtime = "executorch"

    def check(self) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what its imports deprecate
                from executorch.backends.xnnpack.partition import xnnpack_partitioner  # noqa: F401
                from executorch.runtime import Runtime

                Runtime.get()
        except Exception as error:  # a broken build raises anything, ImportError to OSError
            raise ExportError(
                f"ExecuTorch files cannot be made here ({failure(error)[:160]}); install it with"
                " `pip install 'autotok[executorch]'`, or choose another --format"
            ) from error

    def takes(self, operator: str) -> bool:
        """What the runtime of this package has a kernel or a delegate of."""
        from executorch.runtime import Runtime

        return operator in _DELEGATES or operator in Runtime.get().operator_registry.operator_names

    def write(
        self, model: nn.Module, images: Tensor, path: Path, *, dynamic_batch: bool
    ) -> Written:
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        try:
            with without_stack_traces():
                program = torch.export.export(model, (images,)).run_decompositions(_KERNELS)
            lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
            ready = lowered.to_executorch()
        except Exception as error:  # torch and the partitioner raise many types, some private
            raise not_exported(self.name, failure(error)[:200]) from error
        calls = _calls(ready.executorch_program)
        self.check_calls(calls)
        path.write_bytes(ready.buffer)
        return Written(f"executorch {version('executorch')}", calls)

    def check_calls(self, operators: Iterable[str]) -> None:
        """Raise `ExportError` where the runtime has no kernel of an operator."""
        lacking = [name for name in operators if not self.takes(name)]
        if lacking:
            raise not_exported(self.name, f"its runtime has no kernel of {', '.join(lacking)}")

    def open(self, path: Path, device: torch.device) -> nn.Module:
        return ExecuTorchMethod(path)

    def version(self, opened: nn.Module | None = None) -> str:
        return f"executorch {version('executorch')} XNNPACK"

    def usage(self, file: str) -> tuple[str, ...]:
        return (
            f"`{file}` without autotok, in Python (on a device: ExecuTorch's own runtimes):",
            "",
            "    pip install executorch",
            "    from executorch.runtime import Runtime",
            f'    method = Runtime.get().load_program("{file}").load_method("forward")',
            "    output = method.execute([images])[0]",
        )


class ExecuTorchMethod(nn.Module):
    """The forward of a program on the CPU, with as many threads as torch has.

    The number of threads is the process's: that of the program opened last.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime

        portable_lib._unsafe_reset_threadpool(torch.get_num_threads())
        self._program = Runtime.get().load_program(path.read_bytes())
        self._method: Any = self._program.load_method("forward")

    def forward(self, images: Tensor) -> Tensor:
        """(batch, classes), on the host."""
        found: Tensor = self._method.execute([images.float().cpu().contiguous()])[0]
        return found


def _calls(program: Any) -> dict[str, int]:
    """How often each kernel, and each delegate, is called, most frequent first."""
    plan, calls = program.execution_plan[0], Counter[str]()
    for instruction in (one for chain in plan.chains for one in chain.instructions):
        call = instruction.instr_args
        if hasattr(call, "op_index"):
            operator = plan.operators[call.op_index]
            calls[".".join(filter(None, (operator.name, operator.overload)))] += 1
        elif hasattr(call, "delegate_index"):
            calls[plan.delegates[call.delegate_index].id] += 1
    return dict(calls.most_common())
